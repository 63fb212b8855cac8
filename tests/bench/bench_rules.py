"""How often the rules cry wolf on healthy bots, and how soon they notice a bot that broke.

    python tests/bench/bench_rules.py [--bots 2000] [--seed 7] [--trades 20000]

A simulated bot closes trades that are independent of each other: a win pays `payoff`, a loss costs 1, fees included.
A run ends at the first vote, or after `--trades`; the mean run length is (trades of all runs) / (votes given), which
is right for runs that were cut off, too. The delay is counted in trades after the collapse, of bots that had 300
healthy trades before and no vote standing.

The rules are counted here for all bots at once; the first bots of each line are judged by the rule itself as well, and
the script stops if the two disagree.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from regime.config import ModelConfig
from regime.outcomes import Outcome, break_even_win_rate, wilson_interval
from regime.rules import DataView, Rule, View
from regime.rules.break_even import BreakEven
from regime.rules.ml_exit import MlExit
from regime.rules.win_rate import WinRateRule

Hits = NDArray[np.bool_]
TIMEFRAME_MS = 300_000
CHECKED_BOTS, CHECKED_TRADES = 20, 400
HEALTHY_TRADES = 300
DATA = DataView(
    observations=1000, reference_rows=0, warmup_observations=50, require_observations=True, data_until_ms=0,
    stale_after=3, non_finite=(), missing=(), extra=(), extra_pauses=True, schema_source="reference", error=None,
)  # fmt: skip


def first(alarms: Hits) -> tuple[NDArray[np.int64], Hits]:
    """Return, for each bot (row), the number of trades to the first alarm and whether there was one."""
    rang = alarms.any(axis=1)
    return np.where(rang, alarms.argmax(axis=1) + 1, alarms.shape[1]), rang


def windowed(hits: Hits, window: int) -> NDArray[np.int64]:
    """Return the hits among the last `window` trades, after each trade."""
    total = np.cumsum(hits, axis=1, dtype=np.int64)
    total[:, window:] -= total[:, :-window].copy()
    return total


def break_even_alarms(hits: Hits, payoff: float, *, window: int = 50, trades_min: int = 15, z: float = 1.64) -> Hits:
    needed = break_even_win_rate(payoff)
    most = np.full(window + 1, -1)
    for count in range(trades_min, window + 1):
        under = [won for won in range(count + 1) if wilson_interval(won, count, z)[1] < needed]
        most[count] = max(under, default=-1)
    counts = np.minimum(np.arange(1, hits.shape[1] + 1), window)
    alarms: Hits = windowed(hits, window) <= most[counts]
    # Break-even is what the bot's own trades say: without a single loss any rate pays.
    return alarms & (np.cumsum(~hits, axis=1) > 0)


def under(hits: Hits, window: int, limit: float) -> Hits:
    alarms: Hits = windowed(hits, window) / window < limit
    alarms[:, : window - 1] = False
    return alarms


def outcomes(hits: Hits, payoff: float) -> list[Outcome]:
    return [
        Outcome(
            closed_ms=(i + 1) * TIMEFRAME_MS, profit_ratio=0.01 * payoff if hit else -0.01,
            exit_kind="ml_exit" if hit else "stop_loss", shadow=False,
        )
        for i, hit in enumerate(hits)
    ]  # fmt: skip


def check(rule: Rule, hits: Hits, alarms: Hits, payoff: float) -> None:
    """Stop unless the rule itself gives its first vote where we counted it."""
    for row, rang in zip(hits[:CHECKED_BOTS, :CHECKED_TRADES], alarms, strict=False):
        closed = outcomes(row, payoff)
        for i in range(len(closed)):
            view = View(
                now_ms=closed[i].closed_ms, timeframe_ms=TIMEFRAME_MS, side="long", model=ModelConfig(), data=DATA,
                evidence=(), outcomes=tuple(closed[: i + 1]), drawdown_ratio=0.0, drawdown_source="none",
                standing=None, standing_since_ms=None, lifted_ms=None,
            )  # fmt: skip
            voted = rule.judge(view) is not None
            if voted != rang[i]:
                raise SystemExit(f"{rule.code}: counted {rang[i]}, the rule says {voted}, after trade {i + 1}")
            if voted:
                break


def run(
    name: str,
    rule: Rule | None,
    alarms_of: Callable[[Hits], Hits],
    rate: float,
    *,
    payoff: float = 1.0,
    collapse: float | None = None,
    args: argparse.Namespace,
) -> None:
    rng = np.random.default_rng([args.seed, round(rate * 1000), round(payoff * 1000)])
    trades, votes, standing = 0, 0, 0.0
    delays: list[int] = []
    for start in range(0, args.bots, 250):
        bots = min(250, args.bots - start)
        hits = rng.random((bots, args.trades)) < rate
        alarms = alarms_of(hits)
        if start == 0 and rule is not None:
            check(rule, hits, alarms, payoff)
        length, rang = first(alarms)
        trades, votes, standing = trades + int(length.sum()), votes + int(rang.sum()), standing + float(alarms.mean())
        if collapse is not None:
            before = rng.random((bots, HEALTHY_TRADES)) < rate
            broken = alarms_of(np.hstack([before, rng.random((bots, 1000)) < collapse]))
            calm = ~broken[:, HEALTHY_TRADES - 1]
            late, found = first(broken[calm, HEALTHY_TRADES:])
            delays += np.where(found, late, 1000).tolist()
    mean = trades / votes if votes else math.inf
    chunks = math.ceil(args.bots / 250)
    line = f"{name:<44} {rate:>5.2f} {payoff:>6.1f} {mean:>12,.0f} {votes / args.bots:>7.1%} {standing / chunks:>8.2%}"
    if delays:
        middle, most = np.percentile(delays, [50, 90])
        line += f" {np.mean(delays):>8.1f} {middle:>6.0f} {most:>6.0f}"
    print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bots", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--trades", type=int, default=20_000)
    args = parser.parse_args()
    print(f"{args.bots} simulated bots, seed {args.seed}, runs of at most {args.trades} trades")
    print("rang: share of bots with a vote in that time; on: share of all trades after which the condition holds")
    columns = f"{'rule':<44} {'rate':>5} {'payoff':>6} {'run length':>12} {'rang':>7} {'on':>8}"
    print(f"{columns} {'delay':>8} {'50 %':>6} {'90 %':>6}")
    healthy = ((0.55, 1.0), (0.60, 1.0), (0.70, 1.0), (0.45, 1.6))
    for options in (
        {}, {"z": 2.0}, {"z": 2.33}, {"z": 2.58}, {"z": 3.0},
        {"trades_min": 30}, {"trades_min": 30, "z": 2.33}, {"trades_min": 30, "z": 2.58}, {"window": 100, "z": 2.33},
    ):  # fmt: skip
        said = ", ".join(f"{key} {value}" for key, value in options.items()) or "defaults"
        for rate, payoff in healthy:
            run(
                f"break_even ({said})", BreakEven(**options),
                lambda hits, payoff=payoff, options=options: break_even_alarms(hits, payoff, **options),
                rate, payoff=payoff, collapse=0.35 if payoff == 1.0 else 0.25, args=args,
            )  # fmt: skip
            if payoff != 1.0:
                run(
                    f"  the same, collapse to 0.35 ({said})", None,
                    lambda hits, payoff=payoff, options=options: break_even_alarms(hits, payoff, **options),
                    rate, payoff=payoff, collapse=0.35, args=args,
                )  # fmt: skip
    for rate in (0.53, 0.60, 0.70, 0.72):
        run("win_rate (window 10, limit 0.5)", WinRateRule(), lambda hits: under(hits, 10, 0.5), rate, collapse=0.35,
            args=args)  # fmt: skip
    for rate in (0.85, 0.95):
        run("ml_exit (window 20, limit 0.7)", MlExit(), lambda hits: under(hits, 20, 0.7), rate, collapse=0.5,
            args=args)  # fmt: skip


if __name__ == "__main__":
    main()
