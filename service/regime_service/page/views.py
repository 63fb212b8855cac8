"""What the templates are given: decisions and evidence, put into the words and the order of somebody in a hurry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec

from regime.decision import Decision, Reason, Resume, SideDecision, Sides
from regime.edge import ReliabilityBin
from regime.events import SIDES, Side, StreamKey
from regime.outcomes import Outcome
from regime.timeframe import timeframe_ms
from regime_service.drawing import market, trades
from regime_service.drawing.shown import History, blamed, label
from regime_service.logs.findings import utc
from regime_service.page.history import SPANS
from regime_service.page.words import STATE_WORDS, ago
from regime_service.report.page import number, span

ROWS_MAX = 100
"""Streams of one kind on one page; the rest is a link away."""
_FAULTS = frozenset(("warm-up", "stale", "non-finite", "schema-change", "engine-error"))
_PAUSING = _FAULTS | {"operator", "halt-ended", "break-even", "drawdown"}
"""Reasons that pause whatever the configuration. A decision does not say which of its reasons pause."""
_WORST = ("HALTED", "REDUCING", "probation", "ACTIVE")


class Told(NamedTuple):
    """What one side is told, or both where it is the same."""

    sides: str
    label: str
    words: str
    entry: float
    exit: float
    size_factor: float
    reasons: Sequence[Reason]
    """Those that decide; while paused, those that pause."""
    besides: Sequence[Reason]
    """While paused, those that by themselves would raise a threshold or make trades smaller."""
    resume: Resume | None

    @property
    def since_ms(self) -> int | None:
        """Since when it is paused, as far as the reasons tell; None while it trades."""
        if self.label not in ("REDUCING", "HALTED"):
            return None
        return min((reason.since_ms for reason in self.reasons), default=None)


class Row(NamedTuple):
    """One stream on the board."""

    key: StreamKey
    href: str
    worst: str
    told: Sequence[Told]
    would: Sequence[Told]
    """In shadow mode, what would have been said, where that is something else."""
    now_ms: int
    """The stream's own time: the wall clock, or on event time when it was last judged."""
    data_until_ms: int | None
    since_ms: int
    missing: bool
    """Whether the next candle is overdue."""


def stream_href(key: StreamKey, **more: str | int) -> str:
    """Return the address of a stream's page."""
    return "/stream?" + urlencode({**key._asdict(), **more})


def told(sides: Sides) -> list[Told]:
    """Return what both sides are told, joined where it is the same."""
    found = [_told(side, sides.of(side)) for side in SIDES]
    if found[0]._replace(sides="") == found[1]._replace(sides=""):
        return [found[0]._replace(sides=" and ".join(SIDES))]
    return found


def _told(name: str, side: SideDecision) -> Told:
    shown = label(side)
    reasons: list[Reason] = list(side.reasons)
    besides: list[Reason] = []
    if shown in ("REDUCING", "HALTED"):
        pausing = [reason for reason in reasons if reason.code in _PAUSING]
        # A rule that somebody set to pause (or wrote himself) is not in that list: then all of them stand first.
        reasons, besides = (pausing, [r for r in reasons if r.code not in _PAUSING]) if pausing else (reasons, [])
    return Told(
        name, shown, STATE_WORDS[shown], side.entry, side.exit, side.size_factor, reasons, besides, side.resume
    )  # fmt: skip


def row(decision: Decision, now_ms: int | None) -> Row:
    """Return the line of a stream; `now_ms` is the wall clock, None on event time."""
    found = told(decision.sides)
    would = told(decision.computed) if decision.computed is not None and decision.computed != decision.sides else []
    worst = min((t.label for t in found), key=_WORST.index)
    since = [t.since_ms for t in found if t.since_ms is not None]
    until = decision.data_until_ms
    overdue = now_ms is not None and until is not None and now_ms - until > timeframe_ms(decision.timeframe) + 30_000
    return Row(
        decision.key, stream_href(decision.key), worst, found, would,
        decision.as_of_ms if now_ms is None else now_ms, until, min(since, default=decision.as_of_ms), overdue,
    )  # fmt: skip


def board(decisions: Mapping[StreamKey, Decision], now_ms: int | None, *, page: int, wanted: str) -> dict[str, Any]:
    """Return what the board shows: the paused ones first, the newest pause on top.

    `page` counts from 1, over the streams that trade; `wanted` is part of a name, to show only those.
    """
    chosen = [d for k, d in decisions.items() if wanted.casefold() in str(k).casefold()]
    rows = sorted((row(d, now_ms) for d in chosen), key=lambda r: (_WORST.index(r.worst), -r.since_ms, r.key))
    paused = [r for r in rows if r.worst in ("HALTED", "REDUCING")]
    trading = [r for r in rows if r.worst not in ("HALTED", "REDUCING")]
    pages = max(-(-max(len(trading), len(paused)) // ROWS_MAX), 1)
    page = min(max(page, 1), pages)
    cut = slice((page - 1) * ROWS_MAX, page * ROWS_MAX)
    # A side that is not the worst one has reasons, too: only those of a pause are counted here.
    codes = Counter(
        code
        for r in paused
        for code in {reason.code for t in r.told if t.label in ("HALTED", "REDUCING") for reason in t.reasons}
    )
    half = [r for r in paused if any(t.label in ("ACTIVE", "probation") for t in r.told)]
    return {
        "paused": paused[cut], "trading": trading[cut], "paused_count": len(paused), "trading_count": len(trading),
        "smaller": sum(r.worst == "probation" for r in trading), "total": len(decisions), "shown": len(rows),
        "one_side": len(half), "codes": codes.most_common(8), "page": page, "pages": pages,
        "wanted": wanted,
    }  # fmt: skip


def stream(
    decision: Decision, explained: Mapping[str, Any], history: History, results: Mapping[Side, Sequence[Outcome]],
    now_ms: int | None, candles: int, *, payoff: float | None,
) -> dict[str, Any]:  # fmt: skip
    """Return what a stream's page shows; `explained` is what `GET /v1/explain` answers, `results` what came of its
    signals, `payoff` mean win / mean loss where the configuration states it."""
    sides: Mapping[str, Any] = explained.get("sides", {})
    bins: dict[Side, list[ReliabilityBin]] = {}
    needed: dict[Side, float | None] = {}
    for side in SIDES:
        edge = sides.get(side, {}).get("edge") or {}
        bins[side] = [msgspec.convert(found, ReliabilityBin) for found in edge.get("bins", ())]
        needed[side] = edge.get("break_even")
    accused = blamed((d["detector"], d["change"]) for d in explained.get("detectors", ()))
    step_ms = timeframe_ms(decision.timeframe)
    return {
        "row": row(decision, now_ms), "decision": decision, "explained": explained, "sides": sides,
        "price": market.price(history, source=f"close of {decision.symbol}"),
        "states": market.states(history), "thresholds": market.thresholds(history),
        "heat": market.heat(history.drift, accused) if history.drift and history.drift.names else None,
        "drift": history.drift, "why_no_drift": history.why_no_drift or "no feature has enough values",
        "reliability": trades.reliability(bins, needed), "bins": bins, "chart": chart(history),
        "win_rate": trades.win_rate(results, payoff), "worth": trades.worth(trades.live_worth(results)),
        "detectors": [_detector(d) for d in explained.get("detectors", ())],
        "history": history, "candles": candles,
        "spans": [(n, span(n * step_ms), stream_href(decision.key, candles=n)) for n in SPANS],
    }  # fmt: skip


_KINDS = {
    "location": "the level", "scale": "the spread", "shape": "the shape", "dependence": "how features move together",
    "many": "a little of everything",
}  # fmt: skip


def _detector(found: Mapping[str, Any]) -> dict[str, Any]:
    name, statistic, limit = found["detector"], found["statistic"], found["limit"]
    watched = "the model's own probabilities" if name.startswith("scores.") else "the features"
    if not found["warm"] or statistic is None:
        verdict = "has not seen enough yet"
    elif limit is None:
        verdict = "cannot judge: the reference is too short to justify a limit"
    else:
        level = found["level"] or ("alarm" if found["drift"] else "calm")
        verdict = f"{level}: {number(statistic)}, limit {number(limit)}"
    change = found["change"]
    words = None
    if change is not None:
        named = ", ".join(f["name"] for f in change["features"][:3])
        words = (
            f"{_KINDS.get(change['kind'], change['kind'])} of {named}; it began about {utc(change['start_ms'])} UTC "
            f"(between {utc(change['start_low_ms'])} and {utc(change['start_high_ms'])})"
        )
    return {"name": name, "watched": watched, "verdict": verdict, "change": words, "drift": found["drift"],
            "features": () if change is None else change["features"]}  # fmt: skip


def chart(history: History) -> dict[str, Any]:
    """Return what `page.js` draws: times in seconds, prices, states and thresholds."""
    return {
        "times": [at / 1000 for at in history.times_ms], "closes": history.closes,
        "start": history.start_ms / 1000, "end": history.end_ms / 1000,
        "spans": {
            side: [[s.since_ms / 1000, s.until_ms / 1000, s.state, s.entry, s.exit] for s in history.spans[side]]
            for side in SIDES
        },
    }  # fmt: skip


class Entry(NamedTuple):
    """One line of the audit trail: what is different from the entry before."""

    version: int
    as_of_ms: int
    changes: Sequence[str]
    """State, thresholds, size."""
    begun: Sequence[tuple[str, Reason]]
    """(side, reason) that is given now and was not before; all of them for the first entry there is."""
    over: Sequence[str]
    renewed: Sequence[str]
    """Codes of reasons that stand as before, with new figures."""


def trail(decisions: Sequence[Decision], before: Decision | None) -> list[Entry]:
    """Return a page of the audit trail, newest first. `decisions` ascend; `before` is the one ahead of the first."""
    found = []
    for decision in decisions:
        begun, over, renewed = _reasons(before, decision)
        found.append(
            Entry(decision.version, decision.as_of_ms, _differences(before, decision), begun, over, renewed)
        )  # fmt: skip
        before = decision
    return found[::-1]


def _reasons(before: Decision | None, after: Decision) -> tuple[list[tuple[str, Reason]], list[str], list[str]]:
    begun: list[tuple[str, Reason]] = []
    over: dict[str, list[str]] = {}
    renewed: dict[str, None] = {}
    for side in SIDES:
        old = {_one(r): r for r in _said(before).of(side).reasons} if before is not None else {}
        new = {_one(r): r for r in _said(after).of(side).reasons}
        for one, reason in new.items():
            if one not in old or old[one].since_ms != reason.since_ms:
                if (SIDES[0], reason) in begun:
                    begun[begun.index((SIDES[0], reason))] = ("both", reason)
                else:
                    begun.append((side, reason))
            elif old[one] != reason:
                renewed[reason.code] = None
        for one in old.keys() - new.keys():
            over.setdefault(old[one].code, []).append(side)
    return begun, [f"{code} ({' and '.join(dict.fromkeys(s))})" for code, s in sorted(over.items())], list(renewed)


def _one(reason: Reason) -> tuple[str, str]:
    """What makes two reasons the same one: a rule has one, operators may have many."""
    return (reason.code, reason.text if reason.code == "operator" else "")


def _said(decision: Decision) -> Sides:
    return decision.computed or decision.sides


def _differences(before: Decision | None, after: Decision) -> list[str]:
    if before is None:
        return []
    whole = [
        words
        for words, was, now in (
            ("another reference is in force", before.reference_id, after.reference_id),
            ("another configuration judges", before.policy_id, after.policy_id),
            (f"mode: {after.mode}", before.mode, after.mode),
        )
        if was != now
    ]
    per_side = []
    for side in SIDES:
        old, new = _said(before).of(side), _said(after).of(side)
        parts = []
        if label(old) != label(new):
            parts.append(f"{STATE_WORDS[label(old)]} → {STATE_WORDS[label(new)]}")
        for name, was, now in (("entry", old.entry, new.entry), ("exit", old.exit, new.exit),
                               ("size", old.size_factor, new.size_factor)):  # fmt: skip
            if was != now and not (name == "size" and 0 in (was, now)):
                parts.append(f"{name} {was:.2f} → {now:.2f}")
        per_side.append(parts)
    if per_side[0] == per_side[1]:
        return [*whole, *(f"both: {part}" for part in per_side[0])]
    return whole + [f"{side}: {part}" for side, parts in zip(SIDES, per_side, strict=True) for part in parts]


def measured(reason: Reason) -> str:
    """Return the number behind a reason, and its limit; empty where there is none."""
    if reason.value is None:
        return ""
    return f"{number(reason.value)}" + ("" if reason.limit is None else f" (limit {number(reason.limit)})")


FILTERS = {"utc": utc, "ago": ago, "span": span, "number": number, "measured": measured,
           "first_up": lambda text: text[:1].upper() + text[1:]}  # fmt: skip
"""What the templates may call."""

__all__ = [
    "FILTERS", "Entry", "Row", "Told", "board", "chart", "measured", "row", "stream", "stream_href", "told", "trail",
]  # fmt: skip
