"""What the pictures show, read from the store when somebody looks: nothing of it is held for a stream nobody looks at.

Prices and features come from a sample of the newest candles (every n-th, `ROWS_MAX` at the most), each looked up by its
key in the log; states and thresholds come from the audit trail. Neither asks for the writer's lock.

How far a feature lies from the training period is said in a unit that means the same for each of them: the window's
distance from the sample, divided by the distance that only one in a hundred windows of the training period itself
reaches. 1 is "as far as the training period hardly ever went". It is for looking, a picture for each feature on its
own: one window in a hundred is over 1 while nothing changes, and with 200 features two of them always are. What is
decided is decided by the detectors, at the stated false-alarm rate.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from regime.decision import Decision, TradingState
from regime.errors import CallerError
from regime.events import SIDES, Ohlcv, Side, StreamKey
from regime.reference import Reference
from regime.timeframe import timeframe_ms

Floats = NDArray[np.float64]

SPANS = (288, 2016, 8640)
"""Candles that a picture may reach back: a day, a week, a month of 5-minute candles."""
ROWS_MAX = 504
"""Candles read for a picture at the most."""
COLUMN_ROWS = 18
"""Candles read for one column of the heat map; half of them must be there."""
DECISIONS_MAX = 2000
"""Entries of the audit trail read for a picture; what is older is not shown."""
_DECISIONS_AT_ONCE = 250
KEPT_S = 10.0
"""How long a picture's data serve before they are read again."""
KEPT_MAX = 32
FEATURES_SHOWN = 24
_PROBES = (np.arange(16) + 0.5) / 16
_WINDOWS_MAX = 400
_USUAL = 0.99


class Span(NamedTuple):
    """One side was told the same from `since_ms` to `until_ms`."""

    since_ms: int
    until_ms: int
    state: str
    """`ACTIVE`, `probation` (ACTIVE at less than full size), `REDUCING`, `HALTED`."""
    entry: float
    exit: float


class Drift(NamedTuple):
    """Distance of each feature over time, in units of what is rare in the training period; NaN is not known."""

    names: tuple[str, ...]
    """Those shown: the furthest of the newest columns first."""
    edges_ms: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]
    """By feature, then by column; one column fewer than edges."""
    features: int
    """How many there are in all."""


class History(NamedTuple):
    """What the pictures of one stream show."""

    start_ms: int
    end_ms: int
    times_ms: list[int]
    """Close times of the candles read, rising."""
    closes: list[float | None]
    """None where there is no candle."""
    spans: Mapping[Side, list[Span]]
    drift: Drift | None
    why_no_drift: str


class _Seen(msgspec.Struct):
    """What is read of an observation or a candle."""

    ts_ms: int
    features: dict[str, float | None] = {}
    candle: Ohlcv | None = None
    close: float | None = None


_DECODER = msgspec.json.Decoder(_Seen)


class Histories:
    """Reads and keeps histories. Any thread; one reads at a time.

    Parameters
    ----------
    bodies
        Bytes of the events under these keys (`Store.bodies`).
    decisions
        (stream, since version, limit) -> the audit trail.
    reference
        Bytes of a reference; `KeyError` where there is none.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        bodies: Callable[[Sequence[str]], list[bytes]],
        decisions: Callable[[StreamKey, int, int], list[Decision]],
        reference: Callable[[str], bytes],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bodies = bodies
        self._decisions = decisions
        self._reference = reference
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[StreamKey, int], tuple[float, int, History]] = OrderedDict()
        self._laws: OrderedDict[tuple[str, int, int], _Law] = OrderedDict()

    def of(self, decision: Decision, candles: int) -> History:
        """Return the history of the stream that `decision` is the newest answer of, over its newest `candles`.

        At most `KEPT_S` old. Raises what the store raises.
        """
        if candles not in SPANS:
            raise CallerError(f"`candles` is one of {', '.join(map(str, SPANS))}.")
        place = (decision.key, candles)
        with self._lock:
            kept = self._kept.get(place)
            if kept is not None and (self._clock() - kept[0] < KEPT_S or kept[1] == _stamp(decision)):
                return kept[2]
            found = self._read(decision, candles)
            self._kept[place] = (self._clock(), _stamp(decision), found)
            self._kept.move_to_end(place)
            if len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
            return found

    def _read(self, decision: Decision, candles: int) -> History:
        key, step_ms = decision.key, timeframe_ms(decision.timeframe)
        end_ms = decision.as_of_ms if decision.data_until_ms is None else decision.data_until_ms
        every = -(-candles // ROWS_MAX)
        opened = [end_ms - step_ms * (1 + every * i) for i in range(-(-candles // every))][::-1]
        opened = [at_ms for at_ms in opened if at_ms >= 0]
        seen = self._seen(["o", *key], opened)
        missing = [at_ms for at_ms in opened if at_ms not in seen or seen[at_ms].candle is None]
        posted = self._seen(["c", key.symbol, key.timeframe], missing)
        closes: list[float | None] = []
        for at_ms in opened:
            own, other = seen.get(at_ms), posted.get(at_ms)
            close = own.candle.close if own is not None and own.candle is not None else None
            closes.append(close if close is not None else None if other is None else other.close)
        start_ms = opened[0] if opened else end_ms
        # What nobody saw is not shown: a stream of a day does not stand at the edge of a picture of a week.
        first = next((at_ms for at_ms, close in zip(opened, closes, strict=True) if at_ms in seen or close), None)
        if first is not None:
            start_ms = first
        shown = [i for i, at_ms in enumerate(opened) if at_ms >= start_ms]
        until_ms = max(end_ms, decision.as_of_ms)
        drift, why = self._drift(decision, [opened[i] for i in shown], seen, step_ms * every)
        return History(
            start_ms=start_ms, end_ms=until_ms, times_ms=[opened[i] + step_ms for i in shown],
            closes=[closes[i] for i in shown], spans=self._spans(decision, start_ms, until_ms),
            drift=drift, why_no_drift=why,
        )  # fmt: skip

    def _seen(self, parts: Sequence[str], opened: Sequence[int]) -> dict[int, _Seen]:
        prefix = "\0".join(parts)
        return {
            seen.ts_ms: seen for raw in self._bodies([f"{prefix}\0{at_ms}" for at_ms in opened])
            for seen in (_DECODER.decode(raw),)
        }  # fmt: skip

    def _spans(self, newest: Decision, start_ms: int, end_ms: int) -> dict[Side, list[Span]]:
        trail: list[Decision] = []
        below = newest.version
        while below > 0 and len(trail) < DECISIONS_MAX and (not trail or trail[0].as_of_ms > start_ms):
            since = max(below - _DECISIONS_AT_ONCE, 0)
            page = [d for d in self._decisions(newest.key, since, _DECISIONS_AT_ONCE) if d.version <= below]
            trail = page + trail
            below = since
        found: dict[Side, list[Span]] = {side: [] for side in SIDES}
        for i, decision in enumerate(trail):
            since_ms = max(decision.as_of_ms, start_ms)
            until_ms = min(trail[i + 1].as_of_ms, end_ms) if i + 1 < len(trail) else end_ms
            # What was said this moment has no length yet, and is what somebody looks for.
            if until_ms < since_ms or (until_ms == since_ms and i + 1 < len(trail)):
                continue
            for side in SIDES:
                told, spans = (decision.computed or decision.sides).of(side), found[side]
                smaller = told.state is TradingState.ACTIVE and told.size_factor < 1.0
                span = Span(since_ms, until_ms, "probation" if smaller else str(told.state), told.entry, told.exit)
                if spans and spans[-1][2:] == span[2:] and spans[-1].until_ms == since_ms:
                    spans[-1] = spans[-1]._replace(until_ms=until_ms)
                else:
                    spans.append(span)
        return found

    # --- drift ---

    def _drift(
        self, decision: Decision, opened: Sequence[int], seen: Mapping[int, _Seen], every_ms: int
    ) -> tuple[Drift | None, str]:
        if decision.reference_id is None:
            return None, "there is no reference: register the training-period sample, and drift can be judged"
        if len(opened) < COLUMN_ROWS:
            return None, "too few candles have come for a picture"
        try:
            law = self._law(decision.reference_id, max(every_ms // timeframe_ms(decision.timeframe), 1))
        except KeyError:
            return None, "the stream is compared with its own beginning, which is not kept as a sample"
        if law is None:
            return None, "the reference is too short for windows of this length; choose a shorter period"
        columns = len(opened) // COLUMN_ROWS
        newest = opened[len(opened) - columns * COLUMN_ROWS :]
        rows = np.full((len(newest), len(law.names)), np.nan)
        for i, at_ms in enumerate(newest):
            row = seen.get(at_ms)
            if row is not None:
                rows[i] = [_number(row.features.get(name)) for name in law.names]
        windows = rows.reshape(columns, COLUMN_ROWS, len(law.names))
        values = _distances(windows, law.quantiles, law.spread) / law.usual
        now = np.where(np.isnan(values), -np.inf, values)[-4:].max(axis=0)
        order = [int(i) for i in np.argsort(-now, kind="stable")[:FEATURES_SHOWN] if np.isfinite(now[i])]
        edges = [*newest[::COLUMN_ROWS], newest[-1] + every_ms]
        return (
            Drift(
                names=tuple(law.names[i] for i in order), edges_ms=tuple(edges),
                values=tuple(tuple(float(v) for v in values[:, i]) for i in order), features=len(law.names),
            ),
            "",
        )  # fmt: skip

    def _law(self, reference_id: str, every: int) -> _Law | None:
        """What is kept of a reference: a few numbers a feature, for the newest references that were looked at."""
        place = (reference_id, every, COLUMN_ROWS)
        if place not in self._laws:
            found = _law_of(Reference.from_bytes(self._reference(reference_id)), every)
            if found is None:
                return None
            self._laws[place] = found
            if len(self._laws) > KEPT_MAX:
                self._laws.popitem(last=False)
        self._laws.move_to_end(place)
        return self._laws[place]


class _Law(NamedTuple):
    names: tuple[str, ...]
    quantiles: Floats
    """`float64[probes, features]`"""
    spread: Floats
    usual: Floats
    """Distance that one window of the training period in a hundred reaches."""


def _law_of(reference: Reference, every: int) -> _Law | None:
    values = np.asarray(reference.values, dtype=np.float64)
    length = COLUMN_ROWS * every
    starts = np.arange(0, len(values) - length + 1, max(length // 2, 1))
    if len(starts) < 20:
        return None
    starts = starts[np.linspace(0, len(starts) - 1, min(len(starts), _WINDOWS_MAX)).astype(int)]
    live = np.sort(values[:: max(len(values) // 4000, 1)], axis=0)
    quantiles = _probed(live[None])[0]
    with np.errstate(invalid="ignore"):
        spread = (quantiles[-1] - quantiles[0]) / 3.73  # the outer probes of a normal law lie 3.73 deviations apart
    spread = np.where(spread > 0, spread, np.nan)
    windows = values[starts[:, None] + np.arange(0, length, every)[None, :]]
    distances = _distances(windows, quantiles, spread)
    usual = np.full(values.shape[1], np.nan)
    for i in np.flatnonzero(np.isfinite(distances).sum(axis=0) >= 20):
        usual[i] = np.nanquantile(distances[:, i], _USUAL)
    return _Law(tuple(reference.names), quantiles, spread, np.where(usual > 0, usual, np.nan))


def _distances(windows: Floats, quantiles: Floats, spread: Floats) -> Floats:
    """Return `float64[windows, features]`: the mean distance of a window's quantiles from the sample's (Wasserstein-1
    on 16 probes), in deviations of the sample; NaN where fewer than half of a window's values are there."""
    known = np.isfinite(windows).sum(axis=1) >= windows.shape[1] / 2
    ordered = np.sort(np.where(np.isfinite(windows), windows, np.nan), axis=1)
    away: Floats = np.abs(_probed(ordered) - quantiles[None]).mean(axis=1) / spread
    return np.where(known, away, np.nan)


def _probed(ordered: Floats) -> Floats:
    """Return `float64[windows, probes, features]` of windows in order, NaN last."""
    count = np.isfinite(ordered).sum(axis=1)
    places = np.minimum((_PROBES[None, :, None] * count[:, None, :]).astype(int), np.maximum(count - 1, 0)[:, None, :])
    return np.take_along_axis(ordered, places, axis=1)


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _stamp(decision: Decision) -> int:
    return hash((decision.version, decision.as_of_ms, decision.data_until_ms))


__all__ = ["SPANS", "Drift", "Histories", "History", "Span"]
