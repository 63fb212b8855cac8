"""Files of a bot, read into events: whatever a bot really wrote, and everything that is wrong with it.

Layout, from the file to the event:

    tables.py       raw tables: CSV, JSONL and Parquet, gzip or not; which header names which row
    mapping.py      which column is what: configuration with defaults for the usual names
    features.py     feature logs  -> Observation
    candles.py      candle files  -> Candle
    trades.py       trade lists   -> Trade
    reference.py    training-period samples, from a file or a request body -> Reference
    findings.py     what was found on the way: counts, lists and sentences

A path is a file, a folder or a glob; several are read as one log. A row that cannot be understood is refused and
listed, never padded, guessed or dropped in silence (`Findings.balanced`). Nothing is written, and nothing is ever
unpickled.
"""

from __future__ import annotations

from regime_service.logs.candles import CandleLog, read_candles
from regime_service.logs.features import Columns, FeatureLog, read_features
from regime_service.logs.findings import Findings
from regime_service.logs.mapping import LogMapping, TradeMapping
from regime_service.logs.reference import Caps, read_reference, reference_from_bytes
from regime_service.logs.tables import Progress
from regime_service.logs.trades import TradeLog, profit_ratio, read_trades

__all__ = [
    "CandleLog", "Caps", "Columns", "FeatureLog", "Findings", "LogMapping", "Progress", "TradeLog", "TradeMapping",
    "profit_ratio", "read_candles", "read_features", "read_reference", "read_trades", "reference_from_bytes",
]  # fmt: skip
