"""The demo in words, for somebody who is tired: what happened, what it means, what to do next. Pure text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from regime.decision import SideDecision, TradingState
from regime_service.demo.bot import Change
from regime_service.demo.summary import Period, Summary, is_pause, is_stricter

Tone = Literal["bad", "careful", "good", "plain"]

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS


class Line(NamedTuple):
    """One line of the story; `hang` is how far its rest is indented on a terminal that is too narrow for it; None: it
    is to be copied, and never cut."""

    text: str
    tone: Tone = "plain"
    hang: int | None = 0


def event_time(ms: int) -> str:
    """Return event time for people.

    >>> event_time(1_740_787_200_000)
    '2025-03-01 00:00'
    """
    return datetime.fromtimestamp(ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M")


def duration(ms: int) -> str:
    """Return a length of time for people.

    >>> duration(300_000), duration(42_900_000), duration(209_700_000)
    ('5 min', '11 h 55 min', '2 days 10 h')
    """
    if ms < _HOUR_MS:
        return f"{ms // 60_000} min"
    if ms < 2 * _DAY_MS:
        return f"{ms // _HOUR_MS} h {ms % _HOUR_MS // 60_000} min"
    return f"{ms // _DAY_MS} days {ms % _DAY_MS // _HOUR_MS} h"


def percent(ratio: float, *, sign: bool = False) -> str:
    """Return a ratio in percent.

    >>> percent(0.1234), percent(-0.2, sign=True), percent(-0.0001)
    ('12.3 %', '-20.0 %', '0.0 %')
    """
    shown = round(100 * ratio, 1) + 0.0
    return f"{shown:+.1f} %" if sign else f"{shown:.1f} %"


def change_lines(changes: Sequence[Change]) -> list[Line]:
    """Return a line for each side that changed, or one for both where they changed alike."""
    lines: list[tuple[int, str, str, Tone]] = []
    for change in changes:
        what, tone = f"{terms(change)}  {why(change)}".rstrip(), _tone(change)
        if lines and lines[-1] == (change.at_ms, "long", what, tone) and change.side == "short":
            lines[-1] = (change.at_ms, "both", what, tone)
        else:
            lines.append((change.at_ms, change.side, what, tone))
    return [Line(f"{event_time(at_ms)}  {side:<5}  {what}", tone, hang=18) for at_ms, side, what, tone in lines]


def terms(change: Change) -> str:
    """Return what changed, without the reason: state, thresholds, size."""
    old, new = change.before, change.after
    parts = []
    if old.state is not new.state:
        parts.append(f"{_state(old)} -> {_state(new)}")
    for name, was, now in (("entry", old.entry, new.entry), ("exit", old.exit, new.exit)):
        if was != now:
            parts.append(f"{name} {was:.2f} -> {now:.2f}")
    both_trade = old.state is new.state is TradingState.ACTIVE
    if new.state is TradingState.ACTIVE and (new.size_factor != 1.0 or (both_trade and old.size_factor != 1.0)):
        parts.append(f"size {new.size_factor:.0%}")
    return ", ".join(parts)


def why(change: Change) -> str:
    """Return the reasons that are new with this change; where none is, those that are over."""
    known = {reason.code for reason in change.before.reasons}
    standing = {reason.code for reason in change.after.reasons}
    new = [f"{reason.code}: {reason.text}" for reason in change.after.reasons if reason.code not in known]
    over = [reason.code for reason in change.before.reasons if reason.code not in standing]
    if new:
        return "; ".join(new)
    if over:
        return f"no longer: {', '.join(over)}"
    return "; ".join(f"{reason.code}: {reason.text}" for reason in change.after.reasons)


def codes(change: Change) -> str:
    """Return the codes of the reasons that came with this change; of all in force where none is new."""
    known = {reason.code for reason in change.before.reasons}
    new = [reason.code for reason in change.after.reasons if reason.code not in known]
    return ", ".join(new or [reason.code for reason in change.after.reasons])


def summary_lines(summary: Summary, *, end_ms: int, start_ms: int, what_broke: str) -> list[Line]:
    """Return the summary: the facts, then what they mean."""
    facts = [
        ("break at", f"{event_time(summary.break_ms)} ({what_broke}; nobody was told)", "plain"),
        ("first warning after", *_warned(summary)),
        ("paused after", *_paused(summary, end_ms)),
        ("losses avoided", *_avoided(summary)),
        ("healthy period disturbed", *_healthy(summary, start_ms)),
    ]
    return [Line(f"  {name:<26}{text}", tone, hang=28) for name, text, tone in facts]


def meaning(summary: Summary) -> list[str]:
    """Return what the figures mean, in sentences; harm and luck are called so."""
    said = []
    if summary.warning is None:
        said.append("The guard did not notice the break. Do not rely on these rules for such a market as they stand.")
    elif summary.pauses and is_pause(summary.warning):
        said.append(f"The bot's own results told first ({codes(summary.warning)}), before the features did.")
    elif summary.pauses:
        said.append(
            "First the features told: this is not the market the model was trained on. That alone does not mean that "
            "it loses, so the guard only asked for better signals. It paused when the losses proved it."
        )
    else:
        said.append(
            "The features told: this is not the market the model was trained on. It did not come to a pause: up to the "
            "end no rule had proof enough that the bot loses."
        )
    if summary.standing:
        said.append(
            f"Be fair: {', '.join(summary.standing)} stood already before the break, by chance. That part was luck."
        )
    if summary.avoided_ratio < 0:
        said.append(
            "Here the guard did harm: what it refused after the break would have lost less than what it let in."
        )
    elif summary.after.refused:
        said.append(
            f"Of the {_count(summary.after.refused, 'trade')} refused after the break "
            f"{summary.after.refused - summary.after.refused_winners} would have lost and "
            f"{summary.after.refused_winners} would have won: a guard pays in missed winners for the losses it avoids."
        )
    said.append("One made market and one break prove little: other seeds (--seed) come out better and worse than this.")
    return said


def _warned(summary: Summary) -> tuple[str, Tone]:
    if summary.warning is None or summary.warning_ms is None:
        return "- (never: the break was not noticed)", "bad"
    trades = _count(summary.trades_to_warning, "closed trade")
    text = f"{duration(summary.warning_ms)} and {trades}: {terms(summary.warning)} ({codes(summary.warning)})"
    return text, "plain"


def _paused(summary: Summary, end_ms: int) -> tuple[str, Tone]:
    if summary.pause_ms is None and summary.paused_at_break:
        return f"- ({' and '.join(summary.paused_at_break)} stood paused already when it broke, by luck)", "careful"
    if summary.pause_ms is None:
        return (
            f"- (not within {duration(end_ms - summary.break_ms)} and {_count(summary.after.trades, 'trade')})",
            "careful",
        )
    if len({(change.at_ms, codes(change)) for change in summary.pauses.values()}) == 1 and len(summary.pauses) == 2:
        sides = f"both sides ({codes(next(iter(summary.pauses.values())))})"
    else:
        later = [
            f"{side} ({codes(change)})"
            + ("" if change.at_ms - summary.break_ms == summary.pause_ms else
               f" after {duration(change.at_ms - summary.break_ms)}")
            for side, change in sorted(summary.pauses.items(), key=lambda item: item[1].at_ms)
        ]  # fmt: skip
        never = [side for side in ("long", "short") if side not in summary.pauses]
        sides = ", ".join([*later, *(f"{side} not at all" for side in never)])
    return f"{duration(summary.pause_ms)} and {_count(summary.trades_to_pause, 'closed trade')}: {sides}", "plain"


def _avoided(summary: Summary) -> tuple[str, Tone]:
    after, avoided = summary.after, summary.avoided_ratio
    without, with_it = percent(after.unguarded_ratio, sign=True), percent(after.guarded_ratio, sign=True)
    figures = f"{without} without the guard, {with_it} with it"
    refused = f"{after.refused} of {_count(after.trades, 'trade')} refused"
    if avoided < 0:
        return f"none, {percent(-avoided)} of the account lost in addition: {figures}; {refused}", "bad"
    return f"{percent(avoided)} of the account: {figures}; {refused}", "good"


def _healthy(summary: Summary, start_ms: int) -> tuple[str, Tone]:
    times, pauses = len(summary.disturbances), summary.healthy_pauses
    of_it = f", {pauses} of them {'a pause' if pauses == 1 else 'pauses'}" if pauses else ""
    length = f"{duration(summary.break_ms - start_ms)} and {_count(summary.healthy.trades, 'trade')}"
    return f"{_count(times, 'time')} in {length}{of_it}; {_missed(summary.healthy)}", "careful" if pauses else "plain"


def _missed(healthy: Period) -> str:
    missed = healthy.unguarded_ratio - healthy.guarded_ratio
    made = f"{percent(healthy.guarded_ratio, sign=True)} instead of {percent(healthy.unguarded_ratio, sign=True)}"
    if abs(missed) < 0.0005:
        return f"no profit missed ({percent(healthy.unguarded_ratio, sign=True)} either way)"
    if missed < 0:
        return f"{percent(-missed)} of the account gained by luck ({made})"
    return f"profit missed: {percent(missed)} of the account ({made})"


def _tone(change: Change) -> Tone:
    if is_pause(change):
        return "bad"
    return "careful" if is_stricter(change) else "good"


def _state(told: SideDecision) -> str:
    return "REDUCING (paused)" if told.state is TradingState.REDUCING else str(told.state)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def joined(lines: Iterable[Line]) -> str:
    """Return lines as plain text."""
    return "\n".join(line.text for line in lines)
