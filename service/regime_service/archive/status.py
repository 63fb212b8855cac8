"""How complete the feature log is: of the candles there should be, day by day, which are there."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from regime.timeframe import timeframe_ms
from regime_service.archive.folder import Archive, day_of, read_columns

DAY_MS = 86_400_000
HOLES_MAX = 20
"""Holes that are listed for a day; all are counted."""

Ints = NDArray[np.int64]


class Hole(msgspec.Struct, frozen=True):
    """Candles that are missing in a row: how many, and the open times of the first and the last."""

    candles: int
    first_ms: int
    last_ms: int


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """One UTC day of one stream. `late` ones are among the present: stored and counted, but not judged."""

    day: str
    expected: int
    present: int
    late: int
    missing: int
    holes: tuple[Hole, ...]


class StreamDays(msgspec.Struct, frozen=True, kw_only=True):
    """The days of one stream, oldest first."""

    model: str
    symbol: str
    timeframe: str
    days: tuple[Day, ...]

    @property
    def expected(self) -> int:
        return sum(day.expected for day in self.days)

    @property
    def present(self) -> int:
        return sum(day.present for day in self.days)


def status(archive: Archive, *, days: int, until_ms: int | None = None) -> list[StreamDays]:
    """Return how complete each stream's last `days` UTC days are.

    A stream is expected from its first candle on: a day on which the bot was started counts from there. It ends with
    its newest candle, or, with `until_ms` (now), with the last candle that has closed by then: a bot that died is
    incomplete ever since.
    """
    found = []
    for place in sorted({file.parent for file in (archive.folder / "observations").rglob("*.parquet")}):
        files = sorted(place.glob("*.parquet"))
        first, newest = (_times(file) for file in (files[0], files[-1]))
        if not len(first):
            continue
        model, symbol, timeframe = _labels(files[-1])
        step = timeframe_ms(timeframe)
        last_ms = int(newest.max())
        if until_ms is not None:
            last_ms = max(last_ms, until_ms // step * step - step)
        last_day = last_ms // DAY_MS
        begin_ms = max(int(first.min()), (last_day - days + 1) * DAY_MS)
        by_day = {file.stem: file for file in files}
        found.append(
            StreamDays(
                model=model, symbol=symbol, timeframe=timeframe,
                days=tuple(
                    _day(by_day.get(day_of(number * DAY_MS)), number, step, begin_ms, last_ms)
                    for number in range(begin_ms // DAY_MS, last_day + 1)
                ),
            )
        )  # fmt: skip
    return found


def _day(file: Path | None, number: int, step: int, begin_ms: int, last_ms: int) -> Day:
    start = max(begin_ms, number * DAY_MS)
    end = min(last_ms, (number + 1) * DAY_MS - 1)
    # Candles open at multiples of the timeframe; a stream may keep another beat, then its own counts.
    wanted = np.arange(start + (begin_ms - start) % step, end + 1, step, dtype=np.int64)
    times, late = (np.zeros(0, dtype=np.int64), 0) if file is None else _seen(file)
    there = np.isin(wanted, times)
    gone = np.flatnonzero(~there)
    holes = []
    if gone.size:
        for run in np.split(gone, np.flatnonzero(np.diff(gone) > 1) + 1):
            holes.append(Hole(len(run), int(wanted[run[0]]), int(wanted[run[-1]])))
    return Day(
        day=day_of(number * DAY_MS), expected=len(wanted), present=int(there.sum()), late=late, missing=int(gone.size),
        holes=tuple(sorted(holes, key=lambda hole: -hole.candles)[:HOLES_MAX]),
    )  # fmt: skip


def _times(file: Path) -> Ints:
    return np.asarray(read_columns(file, "ts_ms").column("ts_ms").to_numpy(), dtype=np.int64)


def _seen(file: Path) -> tuple[Ints, int]:
    table = read_columns(file, "ts_ms", "late")
    late = np.asarray(table.column("late").to_numpy(zero_copy_only=False), dtype=np.bool_)
    return np.asarray(table.column("ts_ms").to_numpy(), dtype=np.int64), int(late.sum())


def _labels(file: Path) -> tuple[str, str, str]:
    row = read_columns(file, "model", "symbol", "timeframe").slice(0, 1).to_pylist()[0]
    return row["model"], row["symbol"], row["timeframe"]
