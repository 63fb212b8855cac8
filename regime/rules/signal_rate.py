"""Rule `signal-rate`: the model gives far fewer, or far more, signals than in its training period."""

from __future__ import annotations

from regime.decision import TradingState
from regime.rules import View, Vote, flag


class SignalRate:
    """Say so when the number of signals over three days is not what the reference leads one to expect.

    By itself it changes nothing but the reasons, before any trade is lost; `pause` stops the side. Silent without
    probabilities in the reference, with less than 24 days of them, or before three days were seen live.

    Measured on simulated bots, asked one false alarm of a side in 8,640 candles: one in 7,260 with 30 days of
    reference, 10,700 with 90, 9,350 with 360 (`python tests/bench/bench_signals.py 15 9000`).

    Parameters
    ----------
    pause
        Whether to pause the side as well.
    """

    code = "signal-rate"

    def __init__(self, *, pause: bool = False) -> None:
        flag("pause", pause)
        self._pause = pause

    def judge(self, view: View) -> Vote | None:
        if view.signals is None:
            return None
        count, law = view.signals.count, view.signals.law
        # Hysteresis: back a quarter of the way from the limit to what is expected.
        inward = 0.0 if view.standing is None else 0.25
        low = law.low + inward * max(law.expected - law.low, 0.0)
        high = law.high - inward * max(law.high - law.expected, 0.0)
        if low <= count <= high:
            return None
        if view.standing is not None:
            return view.standing
        return Vote(
            code=self.code,
            text=f"{count} signals in the last {law.horizon} candles; the training period had {law.expected:.0f} "
            f"({law.low} to {law.high} would be usual)",
            value=float(count), limit=float(law.low if count < law.low else law.high),
            state=TradingState.REDUCING if self._pause else None,
            lift=(f"{law.low} to {law.high} signals come in {law.horizon} candles again",),
        )  # fmt: skip


__plugin__ = SignalRate
