"""The page's sentences: how long ago, what a side is told, what an override would do."""

from __future__ import annotations

from collections.abc import Sequence

from regime.events import SIDES
from regime_service.logs.findings import count, listed, utc
from regime_service.report.page import span

STATE_WORDS = {
    "ACTIVE": "trades", "probation": "trades smaller", "REDUCING": "paused", "HALTED": "halted by an operator",
}  # fmt: skip
DOES = {
    "REDUCING": "no new entries and no adds; entry orders that rest on the book are cancelled; exits stay free",
    "HALTED": "the bot places no order of its own any more, exits included; protective orders that are at the exchange "
    "already stay there. It never ends in trading by itself: after it, the side is paused until the next candle has "
    "been judged",
    "ACTIVE": "the bot trades against the word of the rules. Faults of the data still pause it, and so does another "
    "operator's pause",
}


def ago(at_ms: int, now_ms: int) -> str:
    """Return how long ago, for people.

    >>> ago(0, 7_500_000), ago(60_000, 61_000), ago(120_000, 0)
    ('2 h 5 min ago', 'just now', 'in 2 min')
    """
    if at_ms > now_ms + 59_999:
        return f"in {span(at_ms - now_ms)}"
    return f"{span(now_ms - at_ms)} ago" if now_ms - at_ms >= 60_000 else "just now"


def side_words(side: str | None) -> str:
    """Return a side, or both, for a sentence."""
    return side or f"both sides ({' and '.join(SIDES)})"


def override_sentences(
    *,
    state: str,
    side: str | None,
    streams: Sequence[str],
    all_of_model: str | None,
    until_ms: int | None,
    now_ms: int,
    standing: Sequence[str],
) -> list[str]:
    """Say what an override would do, before it is done.

    Parameters
    ----------
    state, side
        What would be said, to which side; None is both.
    streams
        The streams it reaches now.
    all_of_model
        The model, where it is for all of its streams, those that come later included.
    until_ms, now_ms
        When it would end (None: when somebody ends it), and the time on the same clock.
    standing
        Codes of the reasons for which a side that is concerned is paused now.
    """
    verb = {"REDUCING": "pauses", "HALTED": "halts", "ACTIVE": "lets trade"}[state]
    whom = f"every stream of {all_of_model} ({count(len(streams), 'stream')} now, and those to come)"
    found = [
        f"This {verb} {side_words(side)} of {whom if all_of_model is not None else listed(list(streams), 5)}.",
        f"What that means: {DOES[state]}.",
    ]
    if until_ms is None:
        found.append("It begins at once and ends when somebody ends it; nothing ends it by itself.")
    else:
        found.append(f"It begins at once and ends by itself at {utc(until_ms)} UTC ({ago(until_ms, now_ms)}).")
    if state == "ACTIVE" and standing:
        codes = listed(sorted(set(standing)), 6)
        found.append(f"You overrule: {codes}. Faults of the data among them are not overruled.")
    if state == "ACTIVE" and not standing:
        found.append("Nothing pauses it now, so this changes nothing until the rules say otherwise.")
    found.append("It is recorded in the audit trail, with the reason, the name and the key.")
    return found


__all__ = ["DOES", "STATE_WORDS", "ago", "override_sentences", "side_words"]
