"""What the pictures show, read from the store when somebody looks: nothing of it is held for a stream nobody looks at.

Prices and features come from a sample of the newest candles (504 at the most), each looked up by its
key in the log; states and thresholds come from the audit trail. Neither asks for the writer's lock.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import msgspec

from regime.decision import Decision
from regime.errors import CallerError
from regime.events import Ohlcv, Side, StreamKey
from regime.reference import Reference
from regime.timeframe import timeframe_ms
from regime_service.drawing.distance import COLUMN_ROWS, Law, drift, law_of
from regime_service.drawing.shown import Drift, History, Span, sampled, spans

SPANS = (288, 2016, 8640)
"""Candles that a picture may reach back: a day, a week, a month of 5-minute candles."""
DECISIONS_MAX = 2000
"""Entries of the audit trail read for a picture; what is older is not shown."""
_DECISIONS_AT_ONCE = 250
KEPT_S = 10.0
"""How long a picture's data serve before they are read again."""
KEPT_MAX = 32


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
        self._laws: OrderedDict[tuple[str, int, int], Law] = OrderedDict()

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
        every, opened = sampled(end_ms, candles, step_ms)
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
        drifted, why = self._drift(decision, [opened[i] for i in shown], seen, step_ms * every)
        return History(
            start_ms=start_ms, end_ms=until_ms, times_ms=[opened[i] + step_ms for i in shown],
            closes=[closes[i] for i in shown], spans=self._spans(decision, start_ms, until_ms),
            drift=drifted, why_no_drift=why,
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
        return spans(trail, start_ms, end_ms)

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
        features = {at_ms: row.features for at_ms, row in seen.items()}
        return drift(law, opened, features, every_ms), ""

    def _law(self, reference_id: str, every: int) -> Law | None:
        """What is kept of a reference: a few numbers a feature, for the newest references that were looked at."""
        place = (reference_id, every, COLUMN_ROWS)
        if place not in self._laws:
            found = law_of(Reference.from_bytes(self._reference(reference_id)), every)
            if found is None:
                return None
            self._laws[place] = found
            if len(self._laws) > KEPT_MAX:
                self._laws.popitem(last=False)
        self._laws.move_to_end(place)
        return self._laws[place]


def _stamp(decision: Decision) -> int:
    return hash((decision.version, decision.as_of_ms, decision.data_until_ms))


__all__ = ["SPANS", "Histories"]
