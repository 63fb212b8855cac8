"""Make `report.png`, the report that the README links to: a replay of the simulated bot's logs, as a browser shows it.

make pictures    (needs chromium: apt install chromium)
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from regime.simulate import Scenario, Simulation, simulate

HERE = Path(__file__).parent


def write_logs(sim: Simulation, folder: Path) -> None:
    """Write what a bot would have on its disk: a training sample, a feature log, closed trades."""
    reference = sim.reference
    with (folder / "train.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["ts_ms", *reference.names, "probability_long", "probability_short"])
        assert reference.ts_ms is not None
        assert reference.probability_long is not None and reference.probability_short is not None
        for i in range(reference.rows):
            claims = (reference.probability_long[i], reference.probability_short[i])
            out.writerow([int(reference.ts_ms[i]), *map(float, reference.values[i]), *map(float, claims)])
    with (folder / "features.csv").open("w", newline="") as file:
        out = csv.writer(file)
        names = list(sim.observations[0].features)
        out.writerow(["ts_ms", "open", "high", "low", "close", "volume", "prob_long", "prob_short", *names])
        for o in sim.observations:
            assert o.candle is not None and o.probabilities is not None
            candle = (o.candle.open, o.candle.high, o.candle.low, o.candle.close, o.candle.volume)
            out.writerow([o.ts_ms, *candle, o.probabilities.long, o.probabilities.short, *o.features.values()])
    with (folder / "trades.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["side", "entry_time", "exit_time", "entry_price", "exit_price", "entry_prob", "exit_reason"])
        for t in sim.trades:
            out.writerow(
                [t.side, t.opened_ms, t.closed_ms, t.entry_price, t.exit_price, t.entry_probability, t.exit_reason]
            )


def main() -> int:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        print("There is no chromium here, so no picture can be taken: apt install chromium", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_logs(simulate(Scenario(seed=13, candles=2880, break_at=1440)), folder)
        command = [
            sys.executable, "-m", "regime_service.cli", "replay", "--reference", "train.csv", "--features",
            "features.csv", "--trades", "trades.csv", "--model", "demo-xgb", "--out", "report",
        ]  # fmt: skip
        subprocess.run(command, cwd=folder, check=True)
        subprocess.run(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                f"--user-data-dir={folder / 'browser'}", "--hide-scrollbars", "--window-size=1000,2550",
                f"--screenshot={HERE / 'report.png'}", (folder / "report" / "report.html").as_uri(),
            ],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
    print(f"Written: {HERE / 'report.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
