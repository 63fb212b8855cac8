"""Make `detection.png`: default detectors and the calibrated one on the same simulated market, healthy, then broken.

make pictures
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from river import drift

from regime.detectors.calibrated import Calibrated
from regime.simulate import Scenario, simulate

mpl.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
DAY = 288
BREAK_DAY, DAYS = 24, 30


def main() -> None:
    sim = simulate(Scenario(seed=3, reference_candles=90 * DAY, candles=DAYS * DAY, break_at=BREAK_DAY * DAY))
    names = sim.reference.names
    rows = np.array([[o.features[name] for name in names] for o in sim.observations], dtype=np.float64)
    spread = np.nanstd(sim.reference.values, axis=0)
    scaled = rows / np.where(spread > 0, spread, 1.0)

    ours = Calibrated(rows_per_false_alarm=30 * DAY)
    ours.reset(sim.reference)
    statistic = np.full(len(rows), np.nan)
    for i, row in enumerate(rows):
        ours.update(row, sim.observations[i].ts_ms)
        statistic[i] = ours.statistic

    figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 6), sharex=True, constrained_layout=True)
    days = np.arange(len(rows)) / DAY
    for label, make, style in (
        ("ADWIN, defaults", drift.ADWIN, "-"),
        ("Page-Hinkley, defaults", drift.PageHinkley, "--"),
    ):
        alarms = np.zeros(len(rows))
        for column in scaled.T:
            detector = make()
            for i, value in enumerate(column):
                detector.update(value)
                alarms[i] += detector.drift_detected
        per_day = np.add.reduceat(alarms, np.arange(0, len(rows), DAY))
        top.step(np.arange(len(per_day)), per_day, style, where="post", label=label)
    top.set_ylabel("alarms a day")
    top.set_ylim(bottom=0)
    top.set_title(f"river's detectors, one on each of {len(names)} features: they ring every day, break or no break")
    top.legend(loc="lower right")
    bottom.plot(days, statistic, label="all features together")
    bottom.axhline(ours.threshold, linestyle="--", color="tab:orange", label="limit: one false alarm in 30 days")
    bottom.axhline(ours.calibration.limit_warning, linestyle=":", color="tab:orange", label="warning")
    bottom.set_title("calibrated: one statistic, one limit")
    bottom.set_xlabel("day")
    bottom.legend(loc="upper left")
    for axes in (top, bottom):
        axes.axvline(BREAK_DAY, color="black", linewidth=0.8)
        axes.text(BREAK_DAY, axes.get_ylim()[1] * 0.97, " break", va="top")
    figure.savefig(HERE / "detection.png", dpi=110)
    first = np.flatnonzero(statistic > ours.threshold)
    print(f"Written: {HERE / 'detection.png'}; first alarm on day {first[0] / DAY:.2f}" if first.size else "no alarm")


if __name__ == "__main__":
    main()
