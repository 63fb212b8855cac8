"""Rule `ml-exit`: fewer trades are closed by the model's own exit signal."""

from __future__ import annotations

from regime.outcomes import ml_exit_rate
from regime.rules import View, Vote, count, ratio


class MlExit:
    """Raise the exit threshold when the model closes too few of its trades itself.

    The rule as many bots have it: ML-exit rate under 70 %, exit 0.75 -> 0.80. It feeds itself: a bot leaves when its
    exit probability reaches the threshold, so a higher one means *fewer* ML exits, not the earlier ones that the rule
    hopes for. Therefore it lets go after `latch_candles` at the latest and stays silent until as many new trades have
    closed as its window holds.

    Measured: first vote after 297 trades of a bot whose model closes 85 % of them itself, after about 105,000 at 95 %
    (mean), 10 to 12 trades after a collapse to 50 % (median); 2,000 simulated bots, seed 7.

    Parameters
    ----------
    window
        Trades of the side that count.
    limit, release
        The vote is given under `limit` and ends at `release` (hysteresis).
    exit
        The exit threshold it asks for.
    latch_candles
        The longest time the vote stands.
    """

    code = "ml-exit"

    def __init__(
        self, *, window: int = 20, limit: float = 0.7, release: float = 0.7, exit: float = 0.8, latch_candles: int = 288
    ) -> None:
        count("window", window)
        count("latch_candles", latch_candles)
        for name, value in (("limit", limit), ("release", release), ("exit", exit)):
            ratio(name, value)
        if release < limit:
            raise ValueError(f"release ({release}) must not be under limit ({limit})")
        self._window, self._limit, self._release, self._exit = window, limit, release, exit
        self._latch_candles = latch_candles

    def judge(self, view: View) -> Vote | None:
        counted = view.outcomes
        if view.lifted_ms is not None and view.standing is None:
            counted = tuple(o for o in counted if o.closed_ms > view.lifted_ms)
        last = counted[-self._window :]
        if len(last) < self._window:
            return None
        rate = ml_exit_rate(last)
        until_ms = view.after_ms(self._latch_candles)
        if view.standing is not None and (view.now_ms >= until_ms or rate >= self._release):
            return None
        if view.standing is None and rate >= self._limit:
            return None
        return Vote(
            code=self.code,
            text=f"the model closed {rate:.0%} of the last {len(last)} trades itself; {self._limit:.0%} was the limit "
            "(a higher exit threshold means fewer ML exits, so this lets go by itself)",
            value=rate, limit=self._limit, exit=max(self._exit, view.model.exit),
            lift=(f"the model closes at least {self._release:.0%} of them, or {self._latch_candles} candles pass",),
            earliest_ms=until_ms,
        )  # fmt: skip


__plugin__ = MlExit
