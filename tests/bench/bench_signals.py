"""How often the rule `signal-rate` rings on a healthy simulated bot, against what was asked; and what it finds.

python tests/bench/bench_signals.py [seeds] [first seed]
"""

from __future__ import annotations

import sys

import numpy as np

from regime.signals import SignalLaw, signal_law
from regime.simulate import Scenario, simulate

ROWS_PER_DAY = 288
ASKED = 30 * ROWS_PER_DAY


def episodes(probabilities: np.ndarray, law: SignalLaw, entry: float) -> int:
    """Votes given, with the hysteresis of the rule."""
    total = np.concatenate([[0], np.cumsum(probabilities >= entry)])
    counts = total[law.horizon :] - total[: -law.horizon]
    low, high = law.low + 0.25 * (law.expected - law.low), law.high - 0.25 * (law.high - law.expected)
    found, standing = 0, False
    for count in counts:
        if standing:
            standing = not low <= count <= high
        elif not law.low <= count <= law.high:
            standing, found = True, found + 1
    return found


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 5000
    print(
        f"asked: one false alarm of a side in {ASKED} candles; {seeds} simulated bots from seed {first}, 100 live days"
    )
    print("reference     achieved / asked     usual range (example)")
    for days in (30, 90, 360):
        alarms, rows, example = 0, 0, None
        for seed in range(first, first + seeds):
            sim = simulate(
                Scenario(seed=seed, reference_candles=days * ROWS_PER_DAY, candles=100 * ROWS_PER_DAY, break_at=None)
            )
            for side in ("long", "short"):
                claims = getattr(sim.reference, f"probability_{side}")
                law = signal_law(claims, 0.8, rows_per_day=ROWS_PER_DAY, rows_per_false_alarm=ASKED)
                assert law is not None
                live = np.array([getattr(o.probabilities, side) for o in sim.observations])
                alarms += episodes(live, law, 0.8)
                rows += len(live) - law.horizon
                example = law
        assert example is not None
        ratio = f"{rows / alarms / ASKED:8.2f}" if alarms else f"  > {rows / ASKED:.0f}"
        print(
            f"{days:4d} days     {ratio} ({alarms} alarms)     {example.low} - {example.expected:.0f} - {example.high}"
        )


if __name__ == "__main__":
    main()
