"""A real `regime serve` in a process of its own, spoken to over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from regime_service.testing import Served


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Start services in the test's folder: `serve()`, `serve('clock = "wall"')`; all are gone afterwards."""
    running: list[Served] = []

    def start(config: str = 'clock = "event"\n', *arguments: str) -> Served:
        running.append(Served(tmp_path, config, *arguments))
        return running[-1]

    yield start
    for served in running:
        served.kill()
