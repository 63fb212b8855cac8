"""What a change of the answer gives reason to say: a table of before and after, and how it reads."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from regime.decision import Decision
from regime.plugins import load
from regime.policy import FAULT_RULES
from regime_service.alerts import plain_text
from regime_service.alerts.words import FAULTS, SILENT, Words, key_of, line

NOW_MS = 1_762_146_300_000
WORDS = Words("01EPOCH")


def side(*codes: str, state: str | None = None, size: float = 1.0) -> dict[str, Any]:
    """One side: paused where a code is given, unless `state` says otherwise."""
    found = state or ("REDUCING" if codes else "ACTIVE")
    return {
        "state": found, "entry": 0.8, "exit": 0.75, "size_factor": size if found == "ACTIVE" else 0.0,
        "reasons": [
            {"code": code, "text": f"because of {code}", "since_ms": NOW_MS - 60_000, "value": 0.29, "limit": 0.53}
            for code in codes
        ],
        "resume": {"conditions": [f"{code} ends" for code in codes], "earliest_ms": NOW_MS + 3_600_000}
        if codes else None,
    }  # fmt: skip


def decision(long: Any, short: Any = None, version: int = 2, **changes: Any) -> Decision:
    plain = {
        "model": "m", "symbol": "BTC/USDT:USDT", "timeframe": "5m", "mode": "enforce", "version": version,
        "as_of_ms": NOW_MS, "data_until_ms": NOW_MS, "regime": None, "reference_id": None, "policy_id": "p",
        "sides": {"long": long, "short": short or side()}, **changes,
    }  # fmt: skip
    return msgspec.convert(plain, Decision)


def said(before: Decision | None, after: Decision, words: Words = WORDS) -> list[tuple[str, str, str]]:
    return [(a.kind, "+".join(a.sides), ",".join(a.codes)) for a in words.alerts_of(before, after, NOW_MS)]


HALT = side("operator", state="HALTED")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (side(), side("drift"), [("paused", "long", "drift")]),
        (side(), HALT, [("paused", "long", "operator")]),
        (side("drift"), HALT, [("paused", "long", "operator")]),
        (side("drift"), side(), [("resumed", "long", "drift")]),
        (HALT, side("halt-ended"), []),
        (side("halt-ended"), side(), [("resumed", "long", "halt-ended")]),
        # A beginning, and what is added to a pause.
        (side("warm-up"), side(), []),
        (side("warm-up", "stale"), side(), [("resumed", "long", "stale")]),
        (side("drift"), side("drift", "win-rate"), []),
        (side("drift"), side("stale", "drift"), [("fault", "long", "stale")]),
        (side("stale", "drift"), side("drift"), [("recovered", "long", "stale")]),
        (side("stale"), side("engine-error"), [("fault", "long", "engine-error")]),
        (side("warm-up"), side("warm-up", "schema-change"), [("fault", "long", "schema-change")]),
        (side("warm-up", "stale"), side("warm-up"), []),
        # What is no news.
        (side(), side(), []),
        (side(), side("drift", state="ACTIVE", size=0.5), []),
        (side("drift"), side("drift"), []),
    ],
)  # fmt: skip
def test_changes_are_told_and_states_are_not(before: Any, after: Any, expected: Any) -> None:
    assert said(decision(before, version=1), decision(after)) == expected


def test_the_first_answer_of_a_stream_is_told_only_where_it_is_a_fault() -> None:
    assert said(None, decision(side("warm-up"), side("warm-up"))) == []
    assert said(None, decision(side("engine-error"), side("engine-error"))) == [("fault", "long+short", "engine-error")]


def test_both_sides_together_are_one_alert_and_opposite_changes_are_two() -> None:
    before = decision(side(), side("win-rate"), version=1)
    assert said(before, decision(side("drift"), side())) == [
        ("paused", "long", "drift"), ("resumed", "short", "win-rate")
    ]  # fmt: skip
    calm = decision(side(), side(), version=1)
    assert said(calm, decision(side("stale"), side("stale"))) == [("paused", "long+short", "stale")]


def test_in_shadow_mode_only_what_the_bot_is_told_counts_unless_the_rest_is_asked_for() -> None:
    calm = msgspec.to_builtins(decision(side()).sides)
    paused = {"long": side("drift"), "short": side()}
    before = decision(side(), version=1, mode="shadow", computed=calm)
    after = decision(side(), mode="shadow", computed=paused)
    assert said(before, after) == []
    (found,) = Words("e", shadow_votes=True).alerts_of(before, after, NOW_MS)
    assert (found.kind, found.shadow, found.urgent) == ("paused", True, False)
    assert found.subject.startswith("SHADOW, would be: PAUSED: m BTC/USDT:USDT 5m, long")
    assert found.now.startswith("Shadow mode, nothing changes: long and short: trades")
    # A fault is told for what it is, once.
    stale = decision(side("stale"), mode="shadow", computed={"long": side("stale"), "short": side()})
    assert said(before, stale, Words("e", shadow_votes=True)) == [("paused", "long", "stale")]


def test_keys_are_the_same_for_the_same_and_differ_by_epoch_stream_version_and_kind() -> None:
    def keys(words: Words = WORDS, version: int = 2, **changes: Any) -> list[str]:
        before = decision(side(), side("drift"), version=version - 1, **changes)
        return [a.key for a in words.alerts_of(before, decision(side("drift"), version=version, **changes), NOW_MS)]

    assert keys() == keys()
    found = [keys(), keys(Words("01OTHER")), keys(version=3), keys(model="n"), keys(symbol="ETH/USDT")]
    assert len({key for both in found for key in both}) == 10
    assert all(key.isascii() and len(key) < 64 for both in found for key in both)
    assert key_of("ab", "c") != key_of("a", "bc")


def test_it_reads_as_a_trader_needs_it_at_three_in_the_morning() -> None:
    words = Words("e", "https://regime.example.org/")
    (found,) = words.alerts_of(decision(side(), version=1), decision(side("win-rate")), NOW_MS + 200)
    assert found.subject == "PAUSED: m BTC/USDT:USDT 5m, long (win-rate)"
    assert plain_text([found]) == (
        "The bot takes no new entries, long: because of win-rate.\n\n"
        "Evidence\n"
        "- win-rate: because of win-rate [0.29, limit 0.53], since 2025-11-03 05:04 UTC\n\n"
        "Your bot now\n"
        "long: no new entries, resting entry orders are cancelled, open positions are closed by the bot's own rules as "
        "ever; short: trades from probability 0.80 on, at its usual size.\n\n"
        "What would lift it\n"
        "- win-rate ends\n"
        "- not before 2025-11-03 06:05 UTC\n\n"
        "2025-11-03 05:05 UTC, decision 2\n"
        "https://regime.example.org/stream?model=m&symbol=BTC%2FUSDT%3AUSDT&timeframe=5m"
    )


def test_a_fault_says_first_what_to_do_about_it() -> None:
    (found,) = WORDS.alerts_of(decision(side(), version=1), decision(side("stale")), NOW_MS)
    assert found.lift[0] == f"first: {FAULTS['stale']}"


def test_an_alert_that_was_written_down_long_after_the_fact_says_so() -> None:
    (found,) = WORDS.alerts_of(decision(side(), version=1), decision(side("stale")), NOW_MS + 86_400_000)
    assert "2025-11-03 05:05 UTC, decision 2, noticed 2025-11-04 05:05 UTC" in plain_text([found])


def test_several_in_one_message_are_short_and_the_urgent_one_gives_the_subject() -> None:
    before = decision(side(), side("win-rate"), version=1)
    both = WORDS.alerts_of(before, decision(side("drift"), side()), NOW_MS)
    text = plain_text(both[::-1])
    assert "Evidence" not in text
    assert "Lifted when: drift ends" in text
    from regime_service.alerts import subject

    assert subject(both[::-1]) == "PAUSED: m BTC/USDT:USDT 5m, long (drift), and 1 more"


def test_several_in_one_message_say_what_to_do_first_where_there_is_something_to_do() -> None:
    (fault,) = WORDS.alerts_of(decision(side(), version=1), decision(side("stale")), NOW_MS)
    text = plain_text([fault, WORDS.channel_refuses("phone", "the token is wrong", 1, NOW_MS)])
    assert "\nFirst: see that your bot runs, that it gets candles from the exchange" in text
    assert "\nWhat to do: mend the channel; `regime alerts test phone` tries it" in text
    assert "Lifted when" not in text


def test_several_in_one_message_link_to_each_of_their_streams_once() -> None:
    words = Words("e", "https://regime.example.org")
    found = [
        one
        for symbol in ("A", "B")
        for version in (2, 3)
        for one in words.alerts_of(decision(side()), decision(side("drift"), version=version, symbol=symbol), NOW_MS)
    ]
    assert len(found) == 4
    assert plain_text(found).splitlines()[-2:] == [
        f"https://regime.example.org/stream?model=m&symbol={symbol}&timeframe=5m" for symbol in ("A", "B")
    ]
    assert plain_text(found[:2]).count("https://") == 1


def test_a_reminder_is_of_what_is_paused_now_and_not_of_a_warm_up() -> None:
    standing = decision(side("drift"), side("warm-up"))
    assert WORDS.standing_since_ms(standing) == NOW_MS - 60_000
    found = WORDS.still(standing, NOW_MS - 60_000, 3, NOW_MS)
    assert (found.kind, found.sides, found.urgent, found.resolved) == ("still", ["long"], False, False)
    assert found.happened == "Still no new entries, long: because of drift."
    assert found.evidence == ["drift: because of drift [0.29, limit 0.53], since 2025-11-03 05:04 UTC"]
    assert WORDS.standing_since_ms(decision(side("warm-up"), side())) is None
    assert WORDS.standing_since_ms(decision(side("drift", state="ACTIVE"))) is None


def test_text_from_outside_is_one_bounded_line() -> None:
    nasty = decision(side("engine-error"))
    reason = msgspec.structs.replace(
        nasty.sides.long.reasons[0], text="Error:\r\nBcc: all@example.org\x1b[31m\u2028" + "x" * 5000
    )  # fmt: skip
    sides = msgspec.structs.replace(nasty.sides.long, reasons=[reason])
    nasty = msgspec.structs.replace(nasty, sides=msgspec.structs.replace(nasty.sides, long=sides))
    (found,) = WORDS.alerts_of(decision(side(), version=1), nasty, NOW_MS)
    for text in (found.subject, found.happened, found.now, *found.evidence, *found.lift):
        assert text.isprintable() and len(text) <= 400
    assert line("a\ud800b").encode()


def test_every_fault_has_a_first_thing_to_do() -> None:
    """The rules that are always on are faults, all but the beginning."""
    codes = {load("regime.rules", kind).code for kind in FAULT_RULES}
    assert codes == FAULTS.keys() | SILENT


def test_where_words_fail_there_is_something_to_say_all_the_same() -> None:
    poor = WORDS.without_words(decision(side("drift")), NOW_MS)
    assert (poor.urgent, poor.version, poor.about) == (True, 2, ("m", "BTC/USDT:USDT", "5m"))
    assert plain_text([poor])


def test_a_doubt_of_old_that_becomes_a_pause_is_no_reason_for_a_reminder_at_once() -> None:
    paused = side("drift", "break-even")
    paused["reasons"][0]["since_ms"] = NOW_MS - 30 * 86_400_000
    assert WORDS.standing_since_ms(decision(paused)) == NOW_MS - 60_000


def test_when_a_fault_is_over_and_the_pause_stands_it_says_why_it_stands() -> None:
    (found,) = WORDS.alerts_of(decision(side("stale", "drift"), version=1), decision(side("drift")), NOW_MS)
    assert found.happened == "A fault is over, but long stays paused. It was: because of stale."
    assert found.evidence == ["drift: because of drift [0.29, limit 0.53], since 2025-11-03 05:04 UTC"]
    assert found.lift == ["drift ends", "not before 2025-11-03 06:05 UTC"]
