"""Rule `win-rate`: the last few trades went badly."""

from __future__ import annotations

from regime.outcomes import win_rate, wins
from regime.rules import View, Vote, count, ratio


class WinRateRule:
    """Raise the entry threshold when the win rate (net of fees) of the last trades of a side is under a limit.

    The rule many bots start with: under 50 % over the last 10, entry 0.80 -> 0.85. It cries wolf, and where the score
    does not rank outcomes, a higher threshold has no lever at all.

    Measured: first vote after 31 trades of a healthy bot with win rate 0.60 and after 83 at 0.70 (mean), true 31 % of
    the time at 0.53, 17 % at 0.60 and 3.4 % at 0.72; 7 trades after a collapse to 0.35 (median); 2,000 simulated bots,
    seed 7.

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
        count("window", window)
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
