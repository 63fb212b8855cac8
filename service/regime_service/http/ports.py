"""Moved to `regime_service.ports`."""

from regime_service.ports import Health, Ingest, Ports, Receipt

__all__ = ["Health", "Ingest", "Ports", "Receipt"]
