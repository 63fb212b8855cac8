"""The guarded clock: it never goes back, whatever happens to the machine's."""

from __future__ import annotations

import time

from regime_service.clock import GuardedClock, since_boot_s


class Machine:
    def __init__(self) -> None:
        self.wall_s, self.since_boot_s = 1000.0, 5.0

    def clock(self) -> GuardedClock:
        return GuardedClock(lambda: self.wall_s, lambda: self.since_boot_s)


def test_a_wall_clock_set_back_is_not_followed_and_one_set_forward_is() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.wall_s, machine.since_boot_s = 400.0, 7.0
    assert clock.now_ms() == 1_002_000
    machine.wall_s = 2000.0
    assert clock.now_ms() == 2_000_000


def test_what_is_known_to_have_passed_has_passed() -> None:
    machine = Machine()
    clock = machine.clock()
    clock.not_before(900_000)
    assert clock.now_ms() == 1_000_000, "the past says nothing"
    clock.not_before(5_000_000)
    machine.since_boot_s += 1.5
    assert clock.now_ms() == 5_001_500


def test_a_clock_that_stands_before_what_the_log_proves_is_wrong_until_it_has_caught_up() -> None:
    machine = Machine()
    clock = machine.clock()
    assert clock.behind() is None, "nothing is known of the past"
    clock.not_before(1_060_000)
    assert clock.behind() is None, "a bot's clock may be a minute ahead"
    clock.not_before(5_000_000)
    why = clock.behind()
    assert why is not None
    assert "shows 1970-01-01 00:16:40 UTC" in why
    assert "reaches to 1970-01-01 01:23:20 UTC" in why
    machine.since_boot_s += 10_000
    assert clock.behind() is not None, "guarded time goes on from the log's end, not from the truth"
    machine.wall_s = 4_950.0
    assert clock.behind() is None
    machine.wall_s = 1000.0
    assert clock.behind() is None, "from then on it is guarded as ever"


def test_the_clock_that_nobody_sets_goes_on() -> None:
    before = since_boot_s()
    time.sleep(0.01)
    assert before < since_boot_s() < before + 60
    assert since_boot_s() >= time.monotonic() - 1, "it may count sleep, and never less than the other one"
