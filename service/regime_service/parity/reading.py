"""Files into the tables that `regime.parity` compares.

Read by the readers of `regime_service.logs`, but nothing is left out that may be the fault: the last row stays, a
probability of 87 stays 87, and a price that stands in a feature log is compared like one in a candle file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec
import numpy as np

from regime.errors import OperatorError
from regime.parity import CANDLE, PROBABILITY, Table
from regime.timeframe import timeframe_ms
from regime_service.logs import Findings, LogMapping, Progress
from regime_service.logs.findings import count, listed
from regime_service.logs.frame import Frame, read_frame
from regime_service.logs.mapping import PROBABILITY_NAMES
from regime_service.logs.tables import Paths, Tables, nothing_to_read, read_tables, sources

LIVE_WORDS = ("live", "prod", "production", "real", "actual", "online")
BACKTEST_WORDS = ("backtest", "backtested", "bt", "sim", "simulated", "expected", "offline", "replay")
"""Words at the beginning or end of a column's name that say which side it is of, where one file holds both."""
PAIR_NAMES = ("pair", "symbol")
SCORES = ("probability", "prob", "proba", "score")
"""Names of a model's only probability."""
_TIMEFRAMES = ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d")
_ANSWER = "answer:"
"""A probability is read under this name, so that the readers of logs do not judge its range."""


@dataclass(frozen=True)
class Side:
    """One side's table, and what was found while reading it."""

    table: Table
    findings: Findings
    notes: tuple[str, ...]


def read_side(
    paths: Paths, mapping: LogMapping, *, timeframe: str | None, only: dict[str, str], progress: Progress | None
) -> Side:
    """Read one side. Raises `OperatorError` in one sentence for files that cannot be used."""
    frame, findings = _read(paths, mapping, timeframe, only, progress)
    return _side(frame, findings, _columns(frame), timeframe)


def read_both(
    path: str, mapping: LogMapping, *, timeframe: str | None, only: dict[str, str], words: tuple[str, str] | None,
    progress: Progress | None,
) -> tuple[Side, Side]:  # fmt: skip
    """Read a file that holds both sides, told by their column names: `prod_long` and `backtest_long`, or what
    `words` say.

    Raises `OperatorError` where no two columns belong together.
    """
    frame, findings = _read(path, mapping, timeframe, only, progress)
    columns = _columns(frame)
    live_words, backtest_words = ((w,) for w in words) if words else (LIVE_WORDS, BACKTEST_WORDS)
    live = {rest: name for name in columns if (rest := _rest(name, live_words)) is not None}
    backtest = {rest: name for name in columns if (rest := _rest(name, backtest_words)) is not None}
    both = [rest for rest in live if rest in backtest]
    if not both:
        asked = f"`{words[0]}` and `{words[1]}`" if words else "`live` or `prod` and `backtest`"
        raise OperatorError(
            f"{path}: no two of its columns are the same quantity of both sides (looked for names that begin or end "
            f"with {asked}; there are {listed((f'`{name}`' for name in columns), 8)}); give two files, or name the "
            "words with --columns LIVE,BACKTEST"
        )
    named = {rest: _canonical(rest) for rest in both}
    sides = [
        _side(frame, findings, {named[rest]: columns[side[rest]] for rest in both}, timeframe)
        for side in (live, backtest)
    ]
    neither = [name for name in columns if name not in {*live.values(), *backtest.values()}]
    if neither:
        sides[0] = Side(
            sides[0].table, findings, (*sides[0].notes, f"Of neither side, not compared: {listed(neither)}.")
        )
    return sides[0], sides[1]


def pairs_in(paths: Paths, mapping: LogMapping) -> tuple[str, list[str]] | None:
    """Return the column that names the market, and the markets in it; None where there is no such column."""
    tables = read_tables(sources(paths), mapping)
    for name in tables.names:
        if name.lower() in PAIR_NAMES:
            found = sorted({text for c in tables.chunks if (col := c.column(name)) for text in col.texts.values()})
            if found:
                return name, found
    return None


def _read(
    paths: Paths, mapping: LogMapping, timeframe: str | None, only: dict[str, str], progress: Progress | None
) -> tuple[Frame, Findings]:
    if only:
        mapping = msgspec.structs.replace(mapping, only={**mapping.only, **only})
    tables = read_tables(sources(paths), mapping, progress=progress)
    nothing_to_read(tables)
    _rename_answers(tables, mapping)
    return read_frame(tables, mapping, "observations", timeframe=timeframe, drop_last=False)


def _rename_answers(tables: Tables, mapping: LogMapping) -> None:
    aliases: dict[str, str] = {}
    for role, names in PROBABILITY_NAMES.items():
        own = mapping.probability(role)
        usual = [name for alias in names for name in tables.names if name.lower() == alias]
        wanted = usual[0] if own is None and usual else own
        if wanted in tables.names:
            aliases[str(wanted)] = _ANSWER + role
    scores = [name for name in tables.names if name.lower() in SCORES]
    if scores:
        aliases[scores[0]] = _ANSWER + "score"
    for chunk in tables.chunks:
        chunk.names = tuple(aliases.get(name, name) for name in chunk.names)
    tables.kinds = {aliases.get(name, name): kind for name, kind in tables.kinds.items()}


def _columns(frame: Frame) -> dict[str, np.ndarray]:
    """Every column of numbers under the name by which both sides know it."""
    found: dict[str, np.ndarray] = {}
    for i, role in enumerate(CANDLE):
        if np.isfinite(frame.candle[:, i]).any():
            found[role] = frame.candle[:, i]
    for i, name in enumerate(frame.names):
        shown = PROBABILITY + name.removeprefix(_ANSWER) if name.startswith(_ANSWER) else name
        found[shown] = frame.values[:, i]
    if not found:
        raise OperatorError("there is no column of numbers beside the time")
    return found


def _rest(name: str, words: tuple[str, ...]) -> str | None:
    """What is left of a column's name without the word that says whose it is."""
    for word in words:
        bare = re.escape(word.strip("_*. "))
        match = re.fullmatch(rf"(?:{bare}[_.\-]+(.+)|(.+?)[_.\-]+{bare})", name, re.IGNORECASE)
        if match is not None:
            return match[1] or match[2]
    return None


def _canonical(rest: str) -> str:
    lower = rest.lower()
    for role, names in PROBABILITY_NAMES.items():
        if lower == role or lower in names:
            return PROBABILITY + role
    if lower in SCORES:
        return PROBABILITY + "score"
    return lower if lower in CANDLE else rest


def _side(frame: Frame, findings: Findings, columns: dict[str, np.ndarray], timeframe: str | None) -> Side:
    ts, notes = _on_the_grid(frame.ts_ms, timeframe)
    _, keep = np.unique(ts, return_index=True)
    if len(keep) < len(ts):
        notes = [
            *notes,
            f"{count(len(ts) - len(keep), 'row')} fall on the candle of an earlier row; the first one counts.",
        ]
    values = np.column_stack([column[keep] for column in columns.values()])
    return Side(Table(ts[keep], tuple(columns), values, frame.log_ms[keep]), findings, tuple(notes))


def _on_the_grid(ts: np.ndarray, timeframe: str | None) -> tuple[np.ndarray, list[str]]:
    """Times of candles from times that may be moments of writing.

    A few rows off the grid are late: each belongs to the candle that began before it. Where nearly all are, they
    are moments of writing, and a row belongs to the last candle that had closed.
    """
    step = timeframe_ms(timeframe) if timeframe is not None else _likely_step(ts)
    if step is None:
        return ts, []
    off = ts % step
    beside = np.count_nonzero(off)
    if not beside:
        return ts, []
    # A close time, 04:59.999, is a moment before the next candle.
    closing = off >= step - 1000
    if beside * 2 <= len(ts) or closing.mean() > 0.5:
        return ts - off, [
            f"{count(int(beside), 'row')} off the grid of candles: each was put on the candle it falls into."
        ]
    if len(np.unique(off)) == 1:
        return ts, []
    return ts - off - step, [
        "The times are moments of writing: each row was put on the last candle that had closed. If they are not, set "
        "the "
        "mapping key time_is."
    ]


def _likely_step(ts: np.ndarray) -> int | None:
    if len(ts) < 3:
        return None
    usual = float(np.median(np.diff(ts)))
    steps = [timeframe_ms(name) for name in _TIMEFRAMES]
    nearest = min(steps, key=lambda step: abs(step - usual))
    return nearest if abs(nearest - usual) <= 0.1 * nearest else None
