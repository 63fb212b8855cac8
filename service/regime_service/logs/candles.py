"""Candle files: prices of a market, downloaded or taken from a feature log."""

from __future__ import annotations

from dataclasses import dataclass

from regime.events import Candle
from regime_service.logs.findings import Findings
from regime_service.logs.frame import DropLast, read_frame, step_ms
from regime_service.logs.mapping import CANDLE_NAMES, LogMapping
from regime_service.logs.tables import Paths, Progress, nothing_to_read, read_tables, sources


@dataclass(frozen=True, slots=True)
class CandleLog:
    """Candles in time order, each time once."""

    candles: list[Candle]
    findings: Findings


def read_candles(
    paths: Paths,
    *,
    symbol: str,
    timeframe: str,
    mapping: LogMapping | None = None,
    drop_last: DropLast = "auto",
    progress: Progress | None = None,
) -> CandleLog:
    """Read candle files (any table with a time, open, high, low, close and volume).

    The trap: the last row of a download is the candle of that moment, with wrong prices and half its volume, and
    nothing marks it. So the last row is left out and reported, unless a log time proves it closed or `drop_last` is
    `False`. Where two files overlap, a row that stands last in its file gives way to the other file's.

    Raises `OperatorError` in one sentence: no such file, no usable row, a column that is not there.
    """
    mapping = mapping or LogMapping()
    step_ms(timeframe)
    tables = read_tables(sources(paths), mapping, progress=progress)
    nothing_to_read(tables)
    frame, findings = read_frame(tables, mapping, "candles", timeframe=timeframe, drop_last=drop_last)
    candles = [
        Candle(symbol=symbol, timeframe=timeframe, ts_ms=ts_ms, **dict(zip(CANDLE_NAMES, prices, strict=True)))
        for ts_ms, prices in zip(frame.ts_ms.tolist(), frame.candle.tolist(), strict=True)
    ]
    return CandleLog(candles, findings)
