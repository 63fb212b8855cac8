"""Does every pause of a healthy bot end? Bots that earn, a streak of losses, and whether they trade again.

    python tests/bench/bench_pauses.py --seed S [--bots 1000] [--preset default] [--scores none,flat,ranks]

A bot wins 62 % of its trades (payoff 1), one signal every three candles. After 100 trades it loses `--streak` in a row,
then earns as before. `paper`: a refused signal leaves a shadow trade. `blind`: it leaves nothing. Scores are spread
over 0.80 - 0.95 and say nothing (`flat`), or 0.15 more of them wins 30 points more (`ranks`; a raised threshold may
stand as well), or trades carry none. The engine is the service's, with its preset's rules; counted is how many bots
trade again (a signal is taken at the full size), and after how many candles.
"""

from __future__ import annotations

import argparse

import numpy as np

from regime.config import EngineConfig
from regime.decision import TradingState
from regime.events import StreamKey, Trade
from regime.fleet import Fleet

KEY = StreamKey("bot", "BTC/USDT:USDT", "5m")
CANDLE_MS, START_MS = 300_000, 1_700_000_100_000
EVERY, BEFORE = 3, 100


class Run:
    """One bot under the guard."""

    def __init__(
        self, preset: str, seed: int, *, paper: bool, streak: int, win_rate: float = 0.62, scores: str = "none"
    ) -> None:
        config = EngineConfig(preset=preset, clock="event", require_observations=False, detectors=[])  # type: ignore[arg-type]
        self.fleet = Fleet(config, lambda _: None)  # type: ignore[arg-type,return-value]
        self.rng, self.paper, self.streak, self.win_rate = np.random.default_rng(seed), paper, streak, win_rate
        self.signals = self.taken = 0
        self.scores = scores

    def signal(self) -> tuple[bool, bool]:
        """One signal and its trade. Return whether the side was paused, and whether the signal was taken in full."""
        at_ms = START_MS + self.signals * EVERY * CANDLE_MS
        while (tick := self.fleet.next_tick(at_ms)) is not None:
            self.fleet.step(tick)
        decision = self.fleet.engine(KEY).decision if KEY in self.fleet else None
        active = decision is None or decision.sides.long.state is TradingState.ACTIVE
        bad = BEFORE <= self.signals < BEFORE + self.streak
        score = None if self.scores == "none" else 0.8 + 0.15 * float(self.rng.random())
        lead = 2.0 * (score - 0.875) if score is not None and self.scores == "ranks" else 0.0
        won = not bad and self.rng.random() < self.win_rate + lead
        taken = active and (decision is None or score is None or score >= decision.sides.long.entry)
        if taken or self.paper:
            self.fleet.step(
                Trade(
                    model=KEY.model, symbol=KEY.symbol, timeframe=KEY.timeframe, trade_id=f"t{self.signals}",
                    side="long", opened_ms=at_ms, closed_ms=at_ms + 2 * CANDLE_MS, entry_price=100.0,
                    exit_price=101.0 if won else 99.0, profit_ratio=0.01 if won else -0.01, shadow=not taken,
                    size_ratio=None if decision is None or not taken else decision.sides.long.size_factor,
                    entry_probability=score,
                )
            )  # fmt: skip
        self.signals += 1
        self.taken += taken
        return not active, taken and (decision is None or decision.sides.long.size_factor == 1.0)


def back(
    preset: str, seed: int, *, paper: bool, streak: int, scores: str = "none", signals_max: int = 4000
) -> tuple[bool, int | None]:
    """Return whether the streak paused the bot, and candles from the end of the streak until it trades in full."""
    run = Run(preset, seed, paper=paper, streak=streak, scores=scores)
    was_paused = False
    while run.signals < BEFORE + streak:
        paused, _ = run.signal()
        was_paused = was_paused or paused
    for i in range(signals_max):
        paused, free = run.signal()
        was_paused = was_paused or paused
        if free and not paused:
            return was_paused, i * EVERY
    return was_paused, None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--bots", type=int, default=1000)
    parser.add_argument("--streak", type=int, default=25)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--scores", default="none,flat,ranks")
    chosen = parser.parse_args()
    for scores in chosen.scores.split(","):
        for paper in (True, False):
            found = [
                back(chosen.preset, chosen.seed + i, paper=paper, streak=chosen.streak, scores=scores)
                for i in range(chosen.bots)
            ]
            ends = [candles for paused, candles in found if paused and candles is not None]
            print(
                f"{chosen.preset}, scores {scores}, {'paper' if paper else 'blind'}: {sum(p for p, _ in found)} of "
                f"{chosen.bots} bots were paused, {sum(c is None for _, c in found)} never came back; the others after "
                f"{np.median(ends):.0f} candles (median), {np.quantile(ends, 0.95):.0f} (95 %), {max(ends)} (longest)",
                flush=True,
            )


if __name__ == "__main__":
    main()
