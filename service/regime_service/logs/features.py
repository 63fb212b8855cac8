"""Feature logs: what the bot's model saw on each closed candle, as the bot itself wrote it down."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan

import numpy as np

from regime.events import Observation, Ohlcv, Probabilities, Taken
from regime_service.logs.findings import Findings
from regime_service.logs.frame import Columns, DropLast, Frame, read_frame, step_ms
from regime_service.logs.mapping import CANDLE_NAMES, LogMapping
from regime_service.logs.tables import Paths, Progress, no_trades, nothing_to_read, read_tables, sources


@dataclass(frozen=True, slots=True)
class FeatureLog:
    """A bot's feature log: observations in time order, each time once."""

    observations: list[Observation]
    findings: Findings
    columns: Columns
    log_ms: list[int | None]
    """For each observation the moment at which the bot wrote it, where the log says so."""


def read_features(
    paths: Paths,
    *,
    model: str,
    symbol: str,
    timeframe: str,
    mapping: LogMapping | None = None,
    drop_last: DropLast = "auto",
    progress: Progress | None = None,
) -> FeatureLog:
    """Read feature logs into observations.

    Values are bit for bit those that the bot would have sent as JSON. A column that a row does not have is absent
    from its features; an empty, NaN or infinite cell is `None`. Open, high, low, close and volume become the
    observation's candle and are no features, unless the mapping wants both. A last row is left out if its log time
    proves its candle unfinished (`drop_last="auto"`), always (`True`) or never (`False`).

    Raises `OperatorError` in one sentence: no such file, no usable row, no column of time.
    """
    mapping = mapping or LogMapping()
    step_ms(timeframe)
    tables = read_tables(sources(paths), mapping, progress=progress)
    nothing_to_read(tables)
    no_trades(tables)
    frame, findings = read_frame(tables, mapping, "observations", timeframe=timeframe, drop_last=drop_last)
    observations = _observations(frame, model, symbol, timeframe)
    log_ms = [None if isnan(at) else int(at) for at in frame.log_ms.tolist()]
    return FeatureLog(observations, findings, frame.columns, log_ms)


def _observations(frame: Frame, model: str, symbol: str, timeframe: str) -> list[Observation]:
    candles = frame.candle.tolist()
    whole = np.logical_and.reduce(np.isfinite(frame.candle), axis=1).tolist()
    times = frame.ts_ms.tolist()
    probabilities = _claims(frame)
    taken = _taken(frame)
    found: list[Observation | None] = [None] * frame.rows
    for number, index in enumerate(frame.layouts):
        places = np.flatnonzero(frame.layout == number)
        names = [frame.names[i] for i in index]
        values = frame.values[np.ix_(places, np.array(index, dtype=np.int64))]
        holed = np.logical_or.reduce(np.isnan(values), axis=1).tolist()
        for place, row, hole in zip(places.tolist(), values.tolist(), holed, strict=True):
            if hole:
                row = [None if isnan(value) else value for value in row]
            found[place] = Observation(
                model=model,
                symbol=symbol,
                timeframe=timeframe,
                ts_ms=times[place],
                features=dict(zip(names, row, strict=True)),
                probabilities=probabilities[place],
                taken=taken[place],
                candle=Ohlcv(**dict(zip(CANDLE_NAMES, candles[place], strict=True))) if whole[place] else None,
            )
    return [observation for observation in found if observation is not None]


def _claims(frame: Frame) -> list[Probabilities | None]:
    if not frame.probabilities:
        return [None] * frame.rows
    roles = list(frame.probabilities)
    rows = zip(*(frame.probabilities[role].tolist() for role in roles), strict=True)
    return [
        Probabilities(**{role: value for role, value in zip(roles, row, strict=True) if not isnan(value)})
        if not all(map(isnan, row))
        else None
        for row in rows
    ]


def _taken(frame: Frame) -> list[Taken | None]:
    if not frame.taken:
        return [None] * frame.rows
    roles = list(frame.taken)
    rows = zip(*(frame.taken[role].tolist() for role in roles), strict=True)
    return [
        Taken(**{role: value != 0 for role, value in zip(roles, row, strict=True) if not isnan(value)})
        if not all(map(isnan, row))
        else None
        for row in rows
    ]


__all__ = ["Columns", "FeatureLog", "read_features"]
