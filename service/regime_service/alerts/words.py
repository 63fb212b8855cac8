"""What a new answer gives reason to say: decisions in, alerts out, for a trader woken at three in the morning.

Told are changes, not states:

    paused      a side that traded does not any more (or an operator halted it)
    fault       the data or the engine became unusable while the side was paused for something else
    recovered   that is over, and the pause stands
    resumed     a side trades again; not said of one whose pause was its warm-up, of which nothing was said either
    still       a reminder of a pause, made from the answer that stands

A threshold or a size that moves is no alert. In shadow mode only what the bot is told counts (faults, an operator);
with `shadow_votes` what would have been said is said as well, marked, and never urgent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import urlencode

from regime.decision import Decision, Reason, Resume, SideDecision, Sides, TradingState
from regime.events import SIDES, StreamKey
from regime_service.alerts import Alert, Kind, utc

FAULTS = {
    "stale": "see that your bot runs, that it gets candles from the exchange, and that it reaches this service",
    "non-finite": "look at the bot's feature code and at the exchange's last candle: something was divided by zero, or "
    "is missing",
    "schema-change": "send the features the model was trained with, or register a reference of the new ones",
    "engine-error": "`regime dead-letter list` shows the event; `retry` or `drop` it",
}
"""Reasons that are faults of the data or of the engine, and the first thing to do about each."""
SILENT = frozenset({"warm-up"})
"""A beginning is no news."""
LINE_MAX = 400
LINES_MAX = 8
SUBJECT_MAX = 140


class Words(NamedTuple):
    """Finds the words. `epoch` is the store's: versions are comparable within one, and so are keys."""

    epoch: str
    public_url: str = ""
    shadow_votes: bool = False

    def alerts_of(self, before: Decision | None, after: Decision, recorded_ms: int) -> list[Alert]:
        """Return what the change from `before` to `after` gives reason to say, the bad news first."""
        was = None if before is None else before.sides
        found = _changes(self, after, was, after.sides, recorded_ms, shadow=False)
        if self.shadow_votes and after.computed is not None:
            was = None if before is None else before.computed
            computed = _changes(self, after, was, after.computed, recorded_ms, shadow=True)
            # What the bot was really told is said already.
            told = {(alert.kind, side) for alert in found for side in alert.sides}
            found += [a for a in computed if not any((a.kind, side) in told for side in a.sides)]
        return found

    def without_words(self, after: Decision, recorded_ms: int) -> Alert:
        """Return an alert that needs no reasoning, for where finding words failed."""
        about = f"{after.model} {after.symbol} {after.timeframe}"
        return Alert(
            key=key_of(self.epoch, *after.key, "changed", str(after.version)), kind="fault", name="RegimeFault",
            at_ms=after.as_of_ms, recorded_ms=recorded_ms, model=after.model, symbol=after.symbol,
            timeframe=after.timeframe, version=after.version, link=_link(self.public_url, after.key),
            subject=line(f"CHANGED: {about}", SUBJECT_MAX),
            happened="The answer of this stream changed, and no words were found for it; the service's log says why.",
        )  # fmt: skip

    def standing_since_ms(self, decision: Decision) -> int | None:
        """Return since when nothing was added to a pause that is worth a reminder; None where there is none.

        Not since when its oldest reason stands: that may have been a mere doubt for days before the pause.
        """
        times = [
            reason.since_ms
            for side in SIDES
            if stands(decision.sides.of(side))
            for reason in decision.sides.of(side).reasons
            if reason.code not in SILENT and reason.since_ms > 0
        ]
        return max(times, default=None)

    def still(self, decision: Decision, since_ms: int, slot: int, now_ms: int) -> Alert:
        """Return the reminder that sides of this answer are paused, the `slot`-th since `since_ms`."""
        sides = [side for side in SIDES if stands(decision.sides.of(side))]
        return _alert(
            self, "still", decision, sides, decision.sides, recorded_ms=now_ms, at_ms=now_ms,
            identity=("still", str(since_ms), str(slot)), since_ms=since_ms,
        )  # fmt: skip

    def channel_refuses(self, channel: str, reason: str, slot: int, now_ms: int) -> Alert:
        """Return what the other channels are told of one that takes no alerts."""
        return of_service(
            "RegimeAlertChannelFailed", f"ALERT CHANNEL {channel} DOES NOT WORK",
            f"An alert could not be delivered by {channel} and was given up: {reason}.",
            "Nothing changes for your bots; alerts by the other channels go on.",
            [
                f"mend the channel; `regime alerts test {channel}` tries it",
                "then `regime alerts retry --all` sends what was given up (`regime alerts list` shows it)",
            ],
            now_ms=now_ms, identity=(self.epoch, channel, str(slot)),
        )  # fmt: skip


def stands(told: SideDecision) -> bool:
    """Whether a side is paused, and not merely warming up."""
    return told.state is not TradingState.ACTIVE and bool(_codes(told) - SILENT)


def of_service(
    name: str, subject: str, happened: str, now: str, lift: Sequence[str], *, now_ms: int, identity: Sequence[str],
    resolved: bool = False, kind: Kind = "service",
) -> Alert:  # fmt: skip
    """Return an alert about the service itself; the same `identity` is the same alert."""
    return Alert(
        key=key_of(name, *identity), kind=kind, name=name, at_ms=now_ms, recorded_ms=now_ms,
        subject=line(subject, SUBJECT_MAX), happened=line(happened), now=line(now), lift=[line(one) for one in lift],
        resolved=resolved, urgent=not resolved and kind != "test",
    )  # fmt: skip


def key_of(*parts: str) -> str:
    """Return a key that is the same for the same parts, and short enough for any receiver."""
    text = "".join(f"{len(part.encode('utf-8', 'backslashreplace'))}:{part}" for part in parts)
    return "rg-" + hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:32]


def line(text: str, length_max: int = LINE_MAX) -> str:
    """Return text as one line that any receiver can take: no control characters, no lone surrogates.

    >>> line("a\\nSubject: b\\ud800")
    'a Subject: b\\\\ud800'
    """
    one = "".join(c if c.isprintable() else " " for c in text.encode("utf-8", "backslashreplace").decode())
    one = " ".join(one.split())
    return one if len(one) <= length_max else one[: length_max - 3] + "..."


def _changes(
    words: Words, after: Decision, was: Sides | None, told: Sides, recorded_ms: int, *, shadow: bool
) -> list[Alert]:  # fmt: skip
    groups: dict[Kind, list[str]] = {"paused": [], "fault": [], "recovered": [], "resumed": []}
    new: set[str] = set()
    gone: set[str] = set()
    for side in SIDES:
        a, b = told.of(side), None if was is None else was.of(side)
        open_before = b is not None and b.state is TradingState.ACTIVE
        faults_before = set() if b is None else _codes(b) & FAULTS.keys()
        faults = _codes(a) & FAULTS.keys()
        halted = b is not None and a.state is TradingState.HALTED is not b.state
        if a.state is TradingState.ACTIVE:
            if b is not None and stands(b):
                groups["resumed"].append(side)
        elif open_before or halted:
            groups["paused"].append(side)
        elif faults - faults_before:
            groups["fault"].append(side)
            new |= faults - faults_before
        elif faults_before - faults and stands(a):
            groups["recovered"].append(side)
            gone |= faults_before - faults
    return [
        _alert(
            words, kind, after, sides, told, recorded_ms=recorded_ms, at_ms=after.as_of_ms, was=was, shadow=shadow,
            identity=(kind, str(after.version), "computed" if shadow else ""),
            faults=sorted(new if kind == "fault" else gone), since_ms=_since(kind, was, told, sides),
        )
        for kind, sides in groups.items()
        if sides
    ]  # fmt: skip


def _since(kind: Kind, was: Sides | None, told: Sides, sides: Sequence[str]) -> int:
    """Since when that stood which is over now, or since when it stands."""
    of = was if kind in ("resumed", "recovered") and was is not None else told
    return min((r.since_ms for side in sides for r in of.of(side).reasons if r.since_ms > 0), default=0)


def _alert(
    words: Words,
    kind: Kind,
    decision: Decision,
    sides: Sequence[str],
    told: Sides,
    *,
    recorded_ms: int,
    at_ms: int,
    identity: Sequence[str],
    was: Sides | None = None,
    faults: Sequence[str] = (),
    shadow: bool = False,
    since_ms: int = 0,
) -> Alert:
    over = kind in ("resumed", "recovered")
    shown = was if over and was is not None else told
    reasons = _reasons(shown, sides)
    if faults:
        first = [named for named in reasons if named[1].code in faults]
        reasons = first or reasons
    halted = any(told.of(side).state is TradingState.HALTED for side in sides)
    codes = list(faults) or list(dict.fromkeys(reason.code for _, reason in reasons))
    who = " and ".join(sides)
    what = {
        "paused": "HALTED" if halted else "PAUSED", "fault": "FAULT",
        "still": "STILL HALTED" if halted else "STILL PAUSED", "recovered": "FAULT OVER, STILL PAUSED",
        "resumed": "TRADES AGAIN",
    }[kind]  # fmt: skip
    if shadow:
        what = f"SHADOW, would be: {what}"
    about = f"{decision.model} {decision.symbol} {decision.timeframe}"
    tail = f" ({', '.join(codes[:2])})" if codes else ""
    return Alert(
        key=key_of(words.epoch, *decision.key, *identity), kind=kind,
        name="RegimeFault" if kind in ("fault", "recovered") else "RegimePaused",
        at_ms=at_ms, recorded_ms=recorded_ms, since_ms=since_ms, version=decision.version,
        model=decision.model, symbol=decision.symbol, timeframe=decision.timeframe, sides=list(sides),
        codes=codes, faults=[code for code in codes if code in FAULTS], resolved=over,
        urgent=kind in ("paused", "fault") and not shadow, shadow=shadow,
        subject=line(f"{what}: {about}, {who}{tail}", SUBJECT_MAX),
        happened=line(_happened(kind, who, reasons, halted, shadow)),
        # Of a fault that is over under a pause that stands, one wants to know why it stands.
        evidence=[
            line(text)
            for text in _evidence(_reasons(told, sides) if kind == "recovered" else reasons, sides)
        ][:LINES_MAX],
        now=line(_now(decision.sides if shadow else told, shadow)),
        lift=[line(text) for text in _lift(kind, told, sides, codes)][:LINES_MAX],
        link=_link(words.public_url, decision.key),
    )  # fmt: skip


def _happened(kind: Kind, who: str, reasons: Sequence[tuple[str, Reason]], halted: bool, shadow: bool) -> str:
    why = reasons[0][1].text if reasons else "no reason was given"
    would = "would take" if shadow else "takes"
    match kind:
        case "paused" if halted:
            return f"An operator took over: {why}."
        case "paused":
            return f"The bot {would} no new entries, {who}: {why}."
        case "fault":
            return f"A fault was added to a pause: {why}."
        case "still":
            return f"Still no new entries, {who}: {why}."
        case "recovered":
            return f"A fault is over, but {who} stays paused. It was: {why}."
        case _:
            return f"{who.capitalize()} may enter again. The pause was for: {why}."


def _evidence(reasons: Sequence[tuple[str, Reason]], sides: Sequence[str]) -> Iterable[str]:
    for side, reason in reasons:
        where = f"{side}: " if side and len(sides) > 1 else ""
        numbers = ""
        if reason.value is not None and reason.limit is not None:
            numbers = f" [{reason.value:.4g}, limit {reason.limit:.4g}]"
        since = f", since {utc(reason.since_ms)}" if reason.since_ms > 0 else ""
        yield f"{where}{reason.code}: {reason.text}{numbers}{since}"


def _reasons(sides: Sides, names: Sequence[str]) -> list[tuple[str, Reason]]:
    """Return the reasons of these sides with the side they are of, or none where they are of all."""
    by_side = {name: [r for r in sides.of(name).reasons if r.code not in SILENT] for name in names}
    first = by_side[names[0]] if names else []
    common = [r for r in first if all(r in reasons for reasons in by_side.values())]
    found = [("", reason) for reason in common]
    return found + [(name, r) for name, reasons in by_side.items() for r in reasons if r not in common]


def _now(sides: Sides, shadow: bool) -> str:
    """Say what the bot does with this answer, side by side."""
    said = []
    states = {side: sides.of(side) for side in SIDES}
    halted = [side for side, told in states.items() if told.state is TradingState.HALTED]
    paused = [side for side, told in states.items() if told.state is TradingState.REDUCING]
    if halted:
        said.append(
            f"{' and '.join(halted)}: it places no order of its own; protective orders at the exchange stay"
        )  # fmt: skip
    if paused:
        said.append(
            f"{' and '.join(paused)}: no new entries, resting entry orders are cancelled, open positions are closed "
            "by the bot's own rules as ever"
        )
    trading: dict[str, list[str]] = {}
    for side, told in states.items():
        if told.state is TradingState.ACTIVE:
            size = "its usual size" if told.size_factor >= 1 else f"{told.size_factor:.0%} of its usual size"
            trading.setdefault(f"trades from probability {told.entry:.2f} on, at {size}", []).append(side)
    said += [f"{' and '.join(names)}: {how}" for how, names in trading.items()]
    prefix = "Shadow mode, nothing changes: " if shadow else ""
    return prefix + "; ".join(said) + "."


def _lift(kind: Kind, told: Sides, sides: Sequence[str], codes: Sequence[str]) -> Iterable[str]:
    if kind == "resumed":
        return
    for code in codes:
        if code in FAULTS and kind != "recovered":
            yield f"first: {FAULTS[code]}"
    seen: set[str] = set()
    for side in sides:
        resume = told.of(side).resume
        if resume is None:
            continue
        where = f"{side}: " if len({tuple(r.conditions) for r in _resumes(told, sides)}) > 1 else ""
        for text in resume.conditions:
            if f"{where}{text}" not in seen:
                seen.add(f"{where}{text}")
                yield f"{where}{text}"
        if resume.earliest_ms is not None and (when := f"not before {utc(resume.earliest_ms)}") not in seen:
            seen.add(when)
            yield when


def _resumes(told: Sides, sides: Sequence[str]) -> Iterable[Resume]:
    return [resume for side in sides if (resume := told.of(side).resume) is not None]


def _codes(told: SideDecision) -> set[str]:
    return {reason.code for reason in told.reasons}


def _link(public_url: str, key: StreamKey) -> str:
    """Return the address of a stream's page (`page/routes.py`)."""
    return f"{public_url.rstrip('/')}/stream?{urlencode(key._asdict())}" if public_url else ""
