"""The trade lists of real bots, under no guard, the users' rules and the evidence.

    python tests/bench/bench_lists.py ../shared/data/trades [--leverage 4]

Each list is read by the tool's own reader (prices, not the bot's own profit column; fees twice per trade) and played
as if the guard had run: a refused trade becomes a shadow (`paper`) or is never heard of (`unseen`). Points are
leverage x (return - fees), summed over the trades that were taken, at the size they had.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
import numpy as np

from regime.config import EngineConfig, ModelConfig
from regime.events import StreamKey
from regime.fleet import Fleet
from regime.guard_value import guard_value, verdicts
from regime.what_if import Refused, what_if
from regime_service.logs import TradeMapping, read_trades

KEY = StreamKey("list", "BTC/USDT:USDT", "5m")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--leverage", type=float, default=4.0)
    chosen = parser.parse_args()
    print(f"{'list':46} {'rules':13} {'refused':7} {'trades':>6} {'won':>5} {'points':>8} {'drawdown':>8} "
          f"{'refused':>7} {'winners missed':>14} {'shifts as good':>14}")  # fmt: skip
    for file in sorted(chosen.folder.glob("*.csv")):
        listed = read_trades(
            [str(file)], model=KEY.model, symbol=KEY.symbol, timeframe=KEY.timeframe, mapping=TradeMapping(),
            fee_ratio=0.0005,
        )  # fmt: skip
        trades = [msgspec.structs.replace(t, leverage=1.0, size_ratio=1.0) for t in listed.trades]
        made = chosen.leverage * np.array([t.profit_ratio for t in trades])
        print(f"{file.stem:46} {'none':13} {'':7} {len(trades):6} {np.mean(made > 0):5.0%} {made.sum():8.2f} "
              f"{drop(made):8.2f}")  # fmt: skip
        for finding in listed.findings.sentences()[:4] if hasattr(listed.findings, "sentences") else ():
            print(f"    {finding}")
        for preset in ("seed-rules", "default", "conservative"):
            for refused in ("paper", "unseen"):
                row(trades, preset, refused, chosen.leverage)


def row(trades: list, preset: str, refused: Refused, leverage: float) -> None:  # type: ignore[type-arg]
    config = EngineConfig(
        preset=preset, clock="event", require_observations=False, models={KEY.model: ModelConfig(entry=0.0)}
    )
    fleet = Fleet(config, lambda _: None)  # type: ignore[arg-type,return-value]
    history = []
    for played in what_if(sorted(trades, key=lambda t: t.closed_ms), fleet, refused):
        history += [step.decision for _, step in played.steps if step.changed]
    judged = verdicts(trades, {KEY: history})
    value = guard_value(judged)
    order = sorted(judged, key=lambda v: v.trade.closed_ms)
    made = leverage * np.array([v.trade.profit_ratio * v.exposure for v in order])
    codes = ", ".join(f"{k} {n}" for k, n in list(value.refused_by.items())[:3])
    shifts = "" if value.shifts_as_good_ratio is None else f"{value.shifts_as_good_ratio:.0%}"
    print(f"{'':46} {preset:13} {refused:7} {value.taken:6} {'':5} {made.sum():8.2f} {drop(made):8.2f} "
          f"{value.refused:7} {value.winners_missed:14} {shifts:>14}  {codes}", flush=True)  # fmt: skip


def drop(made: np.ndarray) -> float:  # type: ignore[type-arg]
    curve = np.concatenate(([0.0], np.cumsum(made)))
    return float((np.maximum.accumulate(curve) - curve).max())


if __name__ == "__main__":
    main()
