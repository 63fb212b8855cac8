"""Rule `win-rate`: the last few trades went badly."""

from __future__ import annotations

from regime.outcomes import win_rate, wins
from regime.rules import View, Vote, positive, ratio


class WinRateRule:
    """Raise the entry threshold when the win rate (net of fees) of the last trades of a side is under a limit.

    The rule many bots start with: under 50 % over the last 10, entry 0.80 -> 0.85. It cries wolf: a healthy bot whose
    true win rate is 0.53 has it standing 30 % of the time, one with 0.72 still 3.4 %; at 0.7 it rings every 85 trades.
    And where the score does not rank outcomes, a higher threshold has no lever at all.

    Parameters
    ----------
    window
        Trades of the side that count, real and shadow.
    limit
        The vote is given when the win rate is under this.
    release
        The vote ends when the win rate is at least this (hysteresis).
    entry
        The entry threshold it asks for.
    """

    code = "win-rate"

    def __init__(self, *, window: int = 10, limit: float = 0.5, release: float = 0.5, entry: float = 0.85) -> None:
        positive("window", window)
        ratio("limit", limit)
        ratio("release", release)
        ratio("entry", entry)
        if release < limit:
            raise ValueError(f"release ({release}) must not be under limit ({limit})")
        self._window, self._limit, self._release, self._entry = window, limit, release, entry

    def judge(self, view: View) -> Vote | None:
        last = view.outcomes[-self._window :]
        if len(last) < self._window:
            return None
        rate = win_rate(last)
        if rate >= (self._limit if view.standing is None else self._release):
            return None
        return Vote(
            code=self.code,
            text=f"{wins(last)} wins in the last {len(last)} trades; {self._limit:.0%} was the limit",
            value=rate, limit=self._limit, entry=max(self._entry, view.model.entry),
            lift=(f"at least {self._release:.0%} of the last {self._window} trades win",),
        )  # fmt: skip


__plugin__ = WinRateRule
