"""What must never happen, judged by true time. Knows nothing of the clients, and of the service only what it shows.

`B` is the longest lease a bot of that kind can be given: 60 s where it polls, a candle and 60 s where it posts. The
contract's worst time is poll interval + lease; what is held against the bots here is the lease alone, which is less.

1. Who enters does so within B of a moment at which the service stood by an ACTIVE of that stream and side. An ACTIVE
   that only an operator's word made, and that ended by itself, is good for nothing after its end; but where he took
   back a word that would have lasted longer, what was leased on that word lives out its time: B from then.
2. Who enters has heard an answer to a question that was asked at most B ago.
3. Nobody enters more than B after a fault or an operator's pause that the log holds began, while it stands: the newest
   candle is old by true time, it lacks a feature or a value, an event broke the engine, HALTED or REDUCING is in force.
   A service that was started on a clock in the past may hold data fresh for as much longer, unless its log disproves
   that clock: then it must answer nobody.
4. The version told of a stream never falls within an epoch, and an epoch that was told never comes back.
5. What was acknowledged is in the log, with the bytes that were sent; what a back-up does not hold is let go.
6. Who was told HALTED last stays HALTED, however long the silence; who was told anything but ACTIVE last does not
   enter. Last is the highest version of the newest epoch, whatever arrived after it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from regime import codec
from regime.decision import Decision, TradingState
from regime.events import SIDES, Command, Observation, StreamKey, Trade

TF_S = 60.0
STALE_AFTER = 3
POLLED_S, POSTED_S = 60.0, TF_S + 60.0
SLACK_S = 0.1
"""Drift of clocks over a lease (100 ppm), and the time an answer takes inside the service."""
LOOK_S = 0.3
"""The service looks at its clock every quarter of a second."""
AHEAD_S = 60.0
"""So far ahead may a bot's clock be; a service that was started further back than that knows it by its log."""
POISON = -0.4
STATES = {state.value for state in TradingState}


class Force:
    """When a side was last ACTIVE in the service: by itself (`free`) or by an operator's word only (`forced`)."""

    __slots__ = ("forced_grace_s", "last_s", "now", "since_s")

    def __init__(self) -> None:
        self.now = ""
        self.since_s = -math.inf
        self.last_s = {"free": -math.inf, "forced": -math.inf}
        self.forced_grace_s = math.inf


class Facts:
    """What the log says of one stream, read by the oracle itself."""

    def __init__(self) -> None:
        self.newest_ms = -1
        self.names: set[str] = set()
        self.nullable: set[str] = set()
        self.bad_since_s = math.inf
        self.poisoned_since_s = math.inf


class Oracle:
    """Hears of everything that happens in a schedule; `wrong` is what must not have happened."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.force: dict[tuple[StreamKey, str], Force] = defaultdict(Force)
        self.facts: dict[StreamKey, Facts] = defaultdict(Facts)
        self.paused: dict[str, tuple[float, Command]] = {}
        self.words: dict[str, Command] = {}
        """An operator's ACTIVE, by id, while nobody took it back."""
        self.taken_back: list[tuple[float, Command]] = []
        self.acknowledged: dict[str, bytes] = {}
        self.heard_s: dict[object, float] = defaultdict(lambda: -math.inf)
        self.newest_told: dict[object, tuple[str, int, dict[str, str]]] = {}
        self.versions: dict[tuple[str, StreamKey], int] = {}
        self.epoch = ""
        self.disturbed_s = -math.inf
        """When the service's clock last jumped, slept, or its disk hung."""
        self.lag_s = self.proven_s = 0.0
        """By how much the clock it was started on stood in the past, and what the log proved of the time."""
        self.restored_s = -math.inf
        self._seen = 0

    # --- the service ---

    def stands(self, t: float, decisions: Mapping[StreamKey, Decision], *, by_time: bool = False) -> list[Force]:
        """What the service stands by from now on; returns the sides whose ACTIVE ended. `by_time`: only time passed."""
        ended = []
        for key in {*decisions, *(key for key, _ in self.force)}:
            decision = decisions.get(key)
            for side in SIDES:
                now = "" if decision is None else kind_of(decision, side)
                force = self.force[key, side]
                if force.now and force.now != now:
                    force.last_s[force.now] = t
                    if force.now == "forced":
                        # By itself: time passed, and no word of an operator counts any more.
                        over = decision is not None and not named(decision, side)
                        force.forced_grace_s = 0.0 if by_time and over else math.inf
                    if not now:
                        ended.append(force)
                if now != force.now:
                    force.since_s = t
                force.now = now
        return ended

    def committed(self, t: float, events: Mapping[str, tuple[int, bytes]]) -> None:
        """Read what is new in the log."""
        if len(events) == self._seen:
            return
        for _, raw in list(events.values())[self._seen :]:
            self._read(t, codec.decode(raw))
        self._seen = len(events)

    def _read(self, t: float, event: Any) -> None:
        if isinstance(event, Observation):
            facts = self.facts[StreamKey(event.model, event.symbol, event.timeframe)]
            if event.ts_ms <= facts.newest_ms:
                return
            absent = {name for name, value in event.features.items() if value is None}
            if facts.newest_ms < 0:
                facts.names, facts.nullable = set(event.features), absent
            facts.newest_ms = event.ts_ms
            if set(event.features) != facts.names or absent - facts.nullable:
                facts.bad_since_s = min(facts.bad_since_s, t)
            else:
                facts.bad_since_s = math.inf
        elif isinstance(event, Trade) and event.profit_ratio < POISON:
            facts = self.facts[StreamKey(event.model, event.symbol, event.timeframe)]
            facts.poisoned_since_s = min(facts.poisoned_since_s, t)
        elif isinstance(event, Command) and event.action in ("retry", "drop"):
            for key, facts in self.facts.items():
                if event.symbol in (None, key.symbol):
                    facts.poisoned_since_s = math.inf
        elif isinstance(event, Command) and event.action == "set":
            self.paused.pop(event.id, None)
            self._take_back(t, event.id)
            if event.state == "ACTIVE":
                self.words[event.id] = event
            # One that ends by itself ends by the service's clock, which the oracle does not see.
            if event.state != "ACTIVE" and event.until_ms is None:
                self.paused[event.id] = (t, event)
        elif isinstance(event, Command) and event.action == "clear":
            self.paused.pop(event.id, None)
            self._take_back(t, event.id)

    def _take_back(self, t: float, word: str) -> None:
        if (known := self.words.pop(word, None)) is not None:
            self.taken_back.append((t, known))

    def started(self, lag_s: float) -> None:
        """The service starts on a clock that stands so far in the past."""
        self.lag_s = lag_s
        newest_ms = [facts.newest_ms for facts in self.facts.values()]
        self.proven_s = max(newest_ms, default=0) / 1000

    def restored(self, t: float, events: Mapping[str, tuple[int, bytes]]) -> None:
        """The store was replaced: what it does not hold, or holds otherwise, is let go, and the log is read anew."""
        held = self.acknowledged
        self.acknowledged = {key: raw for key, (_, raw) in events.items() if held.get(key) == raw}
        self.restored_s = t
        self.facts.clear()
        self.paused.clear()
        self.words.clear()
        self._seen, taken_back = 0, self.taken_back
        self.committed(t, events)
        self.taken_back = taken_back  # what the log holds of old was not taken back now

    def answered(self, t: float, status: int, body: bytes, sent: Mapping[str, bytes]) -> None:
        """The service gave an answer, at this moment."""
        if status not in (200, 304, 404, 409, 422, 400, 503):
            self.wrong.append(f"{t:.3f}: answered {status}: {body[:200]!r}")
        if status != 200:
            return
        self.acknowledged.update(sent)
        for told in msgspec.json.decode(body).get("thresholds", ()):
            key, epoch = StreamKey(told["model"], told["symbol"], told["timeframe"]), told["epoch"]
            if epoch < self.epoch:
                self.wrong.append(f"{t:.3f}: epoch {epoch} after {self.epoch}")
            self.epoch = epoch
            if told["version"] < self.versions.get((epoch, key), 0):
                before = self.versions[epoch, key]
                self.wrong.append(f"{t:.3f}: {key.symbol} version {told['version']} was told after {before}")
            self.versions[epoch, key] = told["version"]

    # --- the bots ---

    def hears(self, bot: object, asked_s: float, status: int, body: bytes, stream: StreamKey) -> None:
        """An answer came to a bot, to a question asked at `asked_s`."""
        if status not in (200, 304):
            return
        self.heard_s[bot] = max(self.heard_s[bot], asked_s)
        if status == 200:
            try:
                for told in msgspec.json.decode(body)["thresholds"]:
                    if told["symbol"] != stream.symbol:
                        continue
                    states = {side: told["sides"][side]["state"] for side in SIDES}
                    new = (str(told["epoch"]), int(told["version"]), states)
                    if all(state in STATES for state in states.values()) and (
                        bot not in self.newest_told or new[:2] >= self.newest_told[bot][:2]
                    ):
                        self.newest_told[bot] = new
            except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
                return

    def looks(self, t: float, bot: object, side: str, state: str) -> None:
        """A bot has looked at what it may do."""
        told = self.newest_told.get(bot)
        if told is not None and told[2][side] == "HALTED" and state != "HALTED":
            self.wrong.append(f"{t:.3f}: {bot} was told HALTED for {side} and is {state}")

    def enters(self, t: float, bot: object, key: StreamKey, side: str, *, posts: bool) -> None:
        """A bot enters."""
        bound_s = (POSTED_S if posts else POLLED_S) + SLACK_S
        for why in self._against(t, bot, key, side, bound_s):
            self.wrong.append(f"{t:.3f}: {bot} entered {key.symbol} {side}: {why}")

    def _against(self, t: float, bot: object, key: StreamKey, side: str, bound_s: float) -> Iterable[str]:
        force = self.force[key, side]
        disturbed = t - self.disturbed_s < bound_s + LOOK_S
        for kind, last_s in force.last_s.items():
            grace_s = bound_s
            if kind == "forced" and not disturbed:
                grace_s = min(bound_s, force.forced_grace_s + LOOK_S)
            if force.now == kind or t - last_s <= grace_s:
                break
            if kind == "forced" and self._leased_on_a_word(t, key, side, bound_s):
                break
        else:
            yield f"no ACTIVE since {max(force.last_s.values()):.3f}"
        told = self.newest_told.get(bot)
        if told is None or told[2][side] != "ACTIVE":
            yield f"the newest it was told is {told}"
        if t - self.heard_s[bot] > bound_s:
            yield f"it heard no answer to a question asked after {self.heard_s[bot]:.3f}"
        for name, since_s in self.faults(t, key, side).items():
            if t > since_s + bound_s + LOOK_S:
                yield f"{name} since {since_s:.3f}"

    def _leased_on_a_word(self, t: float, key: StreamKey, side: str, bound_s: float) -> bool:
        """Whether a word that was taken back may still stand in somebody's lease."""
        return any(
            t - taken_s <= bound_s
            and (word.until_ms is None or t <= word.until_ms / 1000 + LOOK_S)
            and word.side in (None, side)
            and word.symbol in (None, key.symbol)
            for taken_s, word in self.taken_back
        )

    def faults(self, t: float, key: StreamKey, side: str) -> dict[str, float]:
        """What stands against entering, and since when."""
        facts = self.facts[key]
        stale_s = facts.newest_ms / 1000 + (1 + STALE_AFTER) * TF_S if facts.newest_ms >= 0 else math.inf
        if t - self.lag_s >= self.proven_s - AHEAD_S:
            stale_s += self.lag_s
        # A back-up is old: what it lacks is lacking since it took the store's place.
        stale_s = max(stale_s, self.restored_s)
        found = {"stale": stale_s, "bad data": facts.bad_since_s, "engine error": facts.poisoned_since_s}
        for since_s, command in self.paused.values():
            if command.side in (None, side) and command.symbol in (None, key.symbol):
                found[f"operator's {command.state}"] = since_s
        return found

    # --- the end ---

    def finish(self, events: Mapping[str, tuple[int, bytes]]) -> None:
        """Hold what was acknowledged against the log."""
        for key, raw in self.acknowledged.items():
            if key not in events:
                self.wrong.append(f"acknowledged and lost: {key!r}")
            elif events[key][1] != raw:
                self.wrong.append(f"acknowledged and changed: {key!r}")


def kind_of(decision: Decision, side: Any) -> str:
    """Return "free" or "forced" for an ACTIVE, "" for what is none."""
    told = decision.sides.of(side)
    if told.state is not TradingState.ACTIVE:
        return ""
    return "forced" if named(decision, side) else "free"


def named(decision: Decision, side: Any) -> bool:
    """Whether an operator's word counts for a side."""
    return any(reason.code == "operator" for reason in decision.sides.of(side).reasons)
