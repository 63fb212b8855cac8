"""The sentences of the report: what happened, what it means, what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from regime.config import EngineConfig
from regime.engine import Engine
from regime.events import SIDES
from regime.guard_value import GuardValue, Verdict
from regime_service.logs.findings import Findings, count, listed, utc
from regime_service.report.story import Firing, Story

LUCK_MAX = 0.05
"""Share of random shifts up to which the guard's timing counts as better than luck."""
FAULT_SHARE = 0.05
"""Share of the period under a data fault from which the report says: mend the data first."""


def happened(story: Story, *, observations: int, trades: int, findings: Mapping[str, Findings], base: float) -> str:
    """Say what was played and how often the gate stepped in."""
    parts = [count(observations, "observation")] if observations else []
    if "features" in findings and (holes := findings["features"]).missing_candles:
        parts[-1] += f" ({count(holes.missing_candles, 'candle')} missing in {count(len(holes.gaps), 'gap')})"
    if trades:
        parts.append(count(trades, "trade"))
    sides = []
    for side in SIDES:
        shares, pauses, raised = story.shares(side), story.pauses(side), story.raised(side, base)
        stopped = shares["REDUCING"] + shares["HALTED"]
        words = (
            f"{side} was paused {times(pauses)}, {percent(stopped)} of the time" if pauses else f"{side} never paused"
        )
        sides.append(words + (f", and had its entry threshold raised for {percent(raised)}" if raised else ""))
    return (
        f"From {utc(story.start_ms)} to {utc(story.end_ms)} UTC the gate judged {' and '.join(parts)}: "
        f"{'; '.join(sides)}."
    )


def means(value: GuardValue | None, drift: Sequence[Mapping[str, Any]]) -> str:
    """Say what the guard was worth and whether the market left the training distribution."""
    return f"{_worth(value)} {_drifted(drift)}"


def _worth(value: GuardValue | None) -> str:
    if value is None or not value.trades:
        return "Without a list of real trades nobody knows what these pauses would have cost or saved."
    if not value.refused and not value.smaller:
        whole = count(value.trades, "trade")
        return f"None of the {whole} would have been refused: the guard neither cost nor saved anything."
    ends = (
        f"the account ends at {signed(value.profit_with_ratio)} instead of {signed(value.profit_without_ratio)}, "
        f"with a largest drawdown of {percent(value.drawdown_with_ratio)} "
        f"instead of {percent(value.drawdown_without_ratio)}"
    )
    return (
        f"Of {count(value.trades, 'trade')} the guard would have refused {value.refused:,} "
        f"({value.winners_missed:,} winners, {value.losers_avoided:,} losers): {ends}. {shift_sentence(value)}"
    )


def fed(what_if: str | None, value: GuardValue | None) -> list[str]:
    """Say how the trades that the guard refused were fed, and what they made."""
    if value is None:
        return []
    found = []
    if what_if == "paper":
        found.append("Trades that the guard refused were fed as paper trades, as if somebody had followed them.")
    elif what_if == "unseen":
        found.append("Trades that the guard refused were not fed at all, as if nobody could have followed them.")
    elif value.refused:
        found.append(
            "Every trade was fed as it stands in the list, the refused ones too: their losses count in the drawdown. "
            "With --what-if paper they are taken out, as if the guard had run."
        )
    if value.refused_mean_ratio is not None and value.refused_mean_low is not None:
        found.append(
            f"A refused trade made {value.refused_mean_ratio:+.2%} on average [{value.refused_mean_low:+.2%}, "
            f"{value.refused_mean_high or 0.0:+.2%}; 90 %, too narrow where trades overlap]."
        )
    return found


def edges(engine: Engine) -> list[str]:
    """Say, by side, what the trades tell about the score, and whether a loss looks like overfit."""
    found = []
    for side in SIDES:
        if engine.state.outcomes.get(side):
            said = [*engine.edge(side).sentences, engine.out_of_sample(side).sentence]
            found.append(f"{side.capitalize()}: " + "; ".join(said) + ".")
    return found


def shift_sentence(value: GuardValue) -> str:
    """Say what random shifts of the same refusals make of it: the figure that decides."""
    if value.shifts_as_good_ratio is None:
        return "There is nothing to shift, so whether that was skill or luck cannot be said."
    share = value.shifts_as_good_ratio
    verdict = "its timing was better than luck" if share <= LUCK_MAX else "that cannot be told from luck"
    if share > 0.5:
        verdict = "its timing was worse than chance"
    elif share <= LUCK_MAX and value.profit_with_ratio < value.profit_without_ratio:
        verdict = "it was better placed than chance, and still it cost more than it saved"
    losing = " (on a losing list any pause earns)" if value.profit_without_ratio < 0 else ""
    return (
        f"{percent(share)} of {count(value.shifts, 'random shift')} of the same refusals do as well{losing}: {verdict}."
    )


def _drifted(drift: Sequence[Mapping[str, Any]]) -> str:
    judged = [d for d in drift if d["judged"]]
    if not judged:
        return "Drift of the features was not judged."
    if all(d["limit"] is None for d in judged):
        return "Drift of the features was not judged: the reference is too short to justify a limit."
    over = [d for d in judged if d["over_limit"]]
    if not over:
        rows = max(d["judged"] for d in judged)
        return (
            f"No drift alarm on the {rows:,} observations that could be judged; how much that says depends on the "
            "reference (regime calibrate tells)."
        )
    first = min(over, key=lambda d: d["first_over_ms"])
    names = ", ".join(item["feature"] for item in first["top"][:3])
    return (
        f"The features left the training distribution, first at {utc(first['first_over_ms'])} UTC, most of all {names}."
    )


def to_do(
    story: Story,
    firings: Sequence[Firing],
    judged: Sequence[Verdict],
    value: GuardValue | None,
    findings: Mapping[str, Findings],
    *,
    mode: str,
) -> str:
    """Say the one or two things worth doing, most urgent first."""
    advice = []
    if 2 * unobserved(judged, findings) > len(judged):
        return (
            "Give trades and observations of the same days, or replay the trades alone (without --features): as they "
            "are, the guard was asked about trades for which it had no data."
        )
    fault = _worst_fault(story, firings)
    if fault is not None:
        code, share, text = fault
        advice.append(f"mend the data first, {code} stood {percent(share)} of the time ({text})")
    elif "features" in findings and findings["features"].missing_candles:
        longest = max(findings["features"].gaps, key=lambda gap: gap.missing)
        advice.append(
            f"find out why the bot wrote nothing between {utc(longest.from_ms)} and {utc(longest.to_ms)} UTC "
            f"({count(longest.missing, 'candle')})"
        )
    if value is not None and value.profit_without_ratio < 0:
        advice.append(
            f"stop this bot until it earns its fees: its own trades end at {signed(value.profit_without_ratio)}, and a "
            "pause can only slow that down"
        )
    elif value is not None and value.refused:
        good = value.shifts_as_good_ratio is not None and value.shifts_as_good_ratio <= LUCK_MAX
        if good and value.profit_with_ratio > value.profit_without_ratio:
            switch = ' (set mode = "enforce")' if mode == "shadow" else ""
            advice.append(f"let the bot obey the gate{switch}, and look at this figure again next month")
        elif value.profit_with_ratio > value.profit_without_ratio:
            advice.append(
                'let the gate only watch for now (mode = "shadow"): it paid on this history, but so would luck'
            )
        else:
            advice.append(
                'let the gate only watch for now (mode = "shadow"): here its pauses cost more than they saved'
            )
    elif value is None:
        advice.append("replay again with the trades of the same days (--trades), to see what the pauses are worth")
    if not advice:
        return "Nothing needs doing: keep sending, and replay again after the next training."
    text = "; ".join(advice)
    return text[0].upper() + text[1:] + "."


def unobserved(judged: Sequence[Verdict], findings: Mapping[str, Findings]) -> int:
    """Count trades opened before the first observation or more than a day after the last one; 0 without any."""
    seen = findings.get("features")
    if seen is None or seen.first_ms is None or seen.last_ms is None:
        return 0
    until_ms = seen.last_ms + 86_400_000
    return sum(not seen.first_ms <= v.trade.opened_ms <= until_ms for v in judged)


def _worst_fault(story: Story, firings: Sequence[Firing]) -> tuple[str, float, str] | None:
    """Return the data fault that stood longest, its share of the period and its sentence, if it matters."""
    whole = story.end_ms - story.start_ms
    spent: dict[str, int] = {}
    words: dict[str, str] = {}
    for firing in (f for f in firings if f.kind == "fault" and f.side == "long"):
        until_ms = story.end_ms if firing.until_ms is None else firing.until_ms
        spent[firing.code] = spent.get(firing.code, 0) + until_ms - firing.since_ms
        words.setdefault(firing.code, firing.text)
    if not spent or not whole:
        return None
    code = max(spent, key=lambda c: (spent[c], c))
    share = spent[code] / whole
    return (code, share, words[code]) if share >= FAULT_SHARE else None


def notes(
    story: Story,
    config: EngineConfig,
    judged: Sequence[Verdict],
    value: GuardValue | None,
    findings: Mapping[str, Findings],
) -> list[str]:
    """Return what a reader must know to read the figures rightly."""
    found = []
    if not config.require_observations:
        found.append(
            "Only trades were played: there is no warm-up and no staleness in such a replay, and drift of the features "
            "is not judged."
        )
    if config.mode == "shadow":
        found.append("Shadow mode: the bot was told ACTIVE; this report shows what the rules would have said.")
    if outside := unobserved(judged, findings):
        found.append(
            f"{count(outside, 'trade')} of {len(judged):,} {was(outside)} opened when no observations were being sent: "
            "what the guard says about them is said about missing data, not about the trades."
        )
    base = config.model(story.key.model).entry
    below = sum(v.trade.entry_probability is not None and v.trade.entry_probability < base for v in judged)
    if below:
        found.append(
            f"{count(below, 'trade')} {was(below)} entered with a probability below your base entry threshold of "
            f"{base:.2f}: if the bot really enters lower, set entry in [models.{story.key.model}] to what it uses. "
            "They count as refused only while the guard asked for more than that."
        )
    if value is not None and value.shadow_left_out:
        found.append(
            f"{count(value.shadow_left_out, 'shadow trade')} fed the rules and are left out of the guard value."
        )
    if value is not None and value.unjudged:
        early = count(value.unjudged, "trade")
        found.append(
            f"{early} {was(value.unjudged)} opened before the first decision; the guard let it pass."
            if value.unjudged == 1
            else f"{early} were opened before the first decision; the guard let them pass."
        )
    silent = [code for code in story.rule_codes if code not in {f.code for f in story.firings()}]
    if silent:
        found.append(f"Rules that never fired: {listed(silent, 20)}.")
    return found


def percent(ratio: float) -> str:
    """Write a share as a percentage: whole numbers from 10 %, one digit below, never a false zero.

    >>> percent(0.317), percent(0.0421), percent(0.0002), percent(0.0)
    ('32 %', '4.2 %', 'under 0.1 %', '0 %')
    """
    if ratio == 0:
        return "0 %"
    if ratio < 0.001:
        return "under 0.1 %"
    return f"{ratio:.0%}".replace("%", " %") if ratio >= 0.0995 else f"{ratio * 100:.1f} %"


def signed(ratio: float) -> str:
    """Write a ratio as a signed percentage.

    >>> signed(0.0312), signed(-0.5)
    ('+3.1 %', '-50.0 %')
    """
    return f"{ratio * 100:+,.1f} %" if math.isfinite(ratio) else "unknown"


def times(number: int) -> str:
    """Write how often.

    >>> times(1), times(2), times(7)
    ('once', 'twice', '7 times')
    """
    return {1: "once", 2: "twice"}.get(number, f"{number:,} times")


def was(number: int) -> str:
    """Return the verb that goes with a number."""
    return "was" if number == 1 else "were"
