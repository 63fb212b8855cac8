"""How often the e-detector pauses a bot that earns its fees, how soon it sees one that broke, how soon it lets it back.

    python tests/bench/bench_e_detector.py [--bots 400] [--seed 650000] [--part speed,rate,estimated,delay,resume]

A simulated bot closes trades that are independent of each other unless the line says otherwise. A run ends at the first
pause; the rate is (pauses) / (trades of all runs), which is right for runs that were cut off, too, and stands here as a
multiple of the rate asked for. "Estimated": wins pay `payoff` on average, losses cost 1, sizes are lognormal with the
said spread (standard deviation of their logarithm), and break-even is `cautious_break_even` of the same trades.

The delay is counted in trades after a collapse, of bots that had 300 healthy trades and no pause in them. The CUSUM
beside it knows both rates, and its limit is the one that gives it 1,000 trades between false pauses (between the two
limits of its lattice: interpolated). "win rate" is "under half of the last 10", "Wilson" the rule of 50 trades in
`bench_rules.py`, at the limits of the users and of the old rule: their false pauses stand beside them.

The simulation counts in a compiled loop; the first bots are judged by `regime.e_detector` itself as well, and the
script stops if the two disagree. About four minutes on one core.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
from bench_rules import break_even_alarms, first, under
from numba import njit
from numpy.typing import NDArray

from regime import e_detector
from regime.e_detector import cautious_break_even, pause_evidence, resume_evidence

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MEMORY = e_detector.MEMORY
HEALTHY_TRADES = 300
ASKED = np.array([250.0, 1000.0, 3000.0])
CHECKED_BOTS, CHECKED_TRADES = 2, 700


@njit
def trades_of(seed, count, change, rate, later, payoff, spread, sticky):
    """Return net returns: wins of mean `payoff`, losses of mean 1. `sticky` is the chance to repeat the one before."""
    np.random.seed(seed)
    x = np.empty(count)
    won = False
    for i in range(count):
        p = rate if i < change else later
        if i in (0, change) or np.random.random() >= sticky:
            won = np.random.random() < p
        size = math.exp(spread * np.random.randn() - spread * spread / 2) if spread > 0 else 1.0
        x[i] = payoff * size if won else -size
    return x


@njit
def tables(asked, nodes, lower, share, wins0, losses0, wins1, losses1):
    """Fill the powers of the likelihood ratios of each node against break-even, for 0..MEMORY wins and losses."""
    for table, node, is_win, above in (
        (wins0, nodes, True, True), (losses0, nodes, False, True),
        (wins1, lower, True, False), (losses1, lower, False, False),
    ):  # fmt: skip
        for k in range(len(node)):
            p = asked + (1.0 - asked) * node[k] if above else asked * node[k]
            factor = (p / asked if is_win else (1.0 - p) / (1.0 - asked)) ** share
            table[0, k] = 1.0
            for i in range(1, MEMORY + 1):
                table[i, k] = table[i - 1, k] * factor


# Not all of fastmath: NaN must stay NaN.
@njit(fastmath={"reassoc", "nsz", "contract"})
def first_pauses(x, known, z, asked_trades, numbers, nodes, weights, lower, confidence, found):
    """Write the trade of the first pause for each of `asked_trades` (0: none)."""
    scale, slope, prior, sd, spread_prior, edge, share = numbers
    count = len(x)
    wins = np.zeros(count + 1, np.int64)
    sums = np.zeros((count + 1, 4))
    wins0, losses0 = np.empty((MEMORY + 1, len(nodes))), np.empty((MEMORY + 1, len(nodes)))
    wins1, losses1 = np.empty((MEMORY + 1, len(lower))), np.empty((MEMORY + 1, len(lower)))
    before = np.empty(MEMORY + 1)
    asked = min(max(known, edge), 1.0 - edge)
    if not math.isnan(known):
        tables(asked, nodes, lower, share, wins0, losses0, wins1, losses1)
    found[:] = 0
    for t in range(1, count + 1):
        good = x[t - 1] > 0
        wins[t] = wins[t - 1] + good
        sums[t] = sums[t - 1]
        size = abs(x[t - 1])
        sums[t, 0 if good else 2] += size
        sums[t, 1 if good else 3] += size * size
        begin = max(0, t - MEMORY)
        if math.isnan(known):
            gains = wins[t] - wins[begin]
            losses = t - begin - gains
            middle, precision = 0.0, 1.0 / (sd * sd)
            if gains and losses:
                s = sums[t] - sums[begin]
                a, b = s[0] / gains, s[2] / losses
                u = ((s[1] - gains * a * a) / (a * a) + spread_prior) / (gains - 1 + spread_prior)
                v = ((s[3] - losses * b * b) / (b * b) + spread_prior) / (losses - 1 + spread_prior)
                measured = 1.0 / (u / gains + v / losses)
                middle = (math.log(a) - math.log(b)) * measured / (precision + measured)
                precision += measured
            asked = min(max(1.0 / (1.0 + math.exp(middle + z / math.sqrt(precision))), edge), 1.0 - edge)
            tables(asked, nodes, lower, share, wins0, losses0, wins1, losses1)
        for i in range(t - begin + 1):
            w = wins[begin + i] - wins[begin]
            total = 0.0
            for k in range(len(nodes)):
                total += weights[k] * wins0[w, k] * losses0[i - w, k]
            before[i] = total
        total, best, start = 0.0, -1.0, 0
        for i in range(t - begin):
            w = wins[t] - wins[begin + i]
            n = t - begin - i
            term = 0.0
            for k in range(len(lower)):
                term += wins1[w, k] * losses1[n - w, k]
            term *= before[i] / len(lower)
            total += term
            if term > best:
                best, start = term, i
        total /= before[t - begin]
        baseline = (wins[begin + start] - wins[begin] + prior * asked) / (start + prior)
        baseline = min(baseline, 1.0 - edge / 2)
        lead = max(0.0, math.log(baseline / (1 - baseline) * (1 - asked) / asked))
        w = wins[t] - wins[begin + start]
        n = t - begin - start
        below = -1.0
        done = True
        for j in range(len(asked_trades)):
            if found[j]:
                continue
            done = False
            if total < scale * asked_trades[j] * math.exp(-slope * lead):
                continue
            if below < 0:  # P(p < b) with a flat prior is a binomial tail.
                below = 0.0
                for k in range(w + 1, n + 2):
                    below += math.exp(
                        math.lgamma(n + 2.0) - math.lgamma(k + 1.0) - math.lgamma(n + 2.0 - k)
                        + k * math.log(asked) + (n + 1 - k) * math.log(1 - asked)
                    )  # fmt: skip
            if below >= confidence:
                found[j] = t
        if done:
            break


@njit
def cusum(seed, bots, rate, later, change, count, against, limits):
    """Return the trade of the first alarm (0: none) of Page's CUSUM for `against` = (rate before, rate after)."""
    np.random.seed(seed)
    win = math.log(against[1] / against[0])
    loss = math.log((1 - against[1]) / (1 - against[0]))
    found = np.zeros((bots, len(limits)), np.int64)
    for i in range(bots):
        s = 0.0
        for t in range(1, count + 1):
            s = max(0.0, s) + (win if np.random.random() < (rate if t <= change else later) else loss)
            for j in range(len(limits)):
                if s >= limits[j] and not found[i, j]:
                    found[i, j] = t
            if found[i, -1]:
                break
    return found


def constants(share: float = 1.0) -> tuple[tuple[float, ...], Floats, Floats, Floats]:
    nodes, log_weights, lower, _ = e_detector._nodes(e_detector._ATOM)
    numbers = (
        e_detector._SCALE, e_detector._SLOPE, e_detector._BASELINE_PRIOR, e_detector._PAYOFF_PRIOR_SD,
        e_detector._SPREAD_PRIOR, e_detector._EDGE, share,
    )  # fmt: skip
    return numbers, nodes, np.exp(log_weights), lower


def pauses(
    args: argparse.Namespace, line: int, bots: int, count: int, rate: float, later: float | None = None, *,
    known: float = math.nan, payoff: float = 1.0, spread: float = 0.0, sticky: float = 0.0, share: float = 1.0,
    z: float = 1.0, checked: int = CHECKED_BOTS,
) -> Ints:  # fmt: skip
    """Return the trade of the first pause (0: none), shape (bots, asked)."""
    found = np.zeros((bots, len(ASKED)), np.int64)
    change = HEALTHY_TRADES if later is not None else count
    for i in range(bots):
        x = trades_of(args.seed + line * 100_003 + i, count, change, rate, later or rate, payoff, spread, sticky)
        first_pauses(x, known, z, ASKED, *constants(share), 0.8, found[i])
        if i < checked:
            check(x, known, z, share, found[i])
    return found


def check(x: Floats, known: float, z: float, share: float, found: Ints) -> None:
    """Stop unless the module itself pauses where we counted it."""
    for j, asked in enumerate(ASKED):
        for t in range(1, min(len(x), CHECKED_TRADES) + 1):
            needed = cautious_break_even(x[max(0, t - MEMORY) : t], z=z) if math.isnan(known) else known
            said = pause_evidence(x[:t] > 0, needed, false_pause_trades=asked, independent_share=share).pause
            if said != (found[j] == t):
                raise SystemExit(f"asked {asked:.0f}: counted {found[j]}, the module says {said} after trade {t}")
            if said:
                break


def times_asked(found: Ints, count: int) -> list[float]:
    lengths = np.where(found > 0, found, count).sum(axis=0)
    return [float(r) for r in (found > 0).sum(axis=0) / lengths * ASKED]


def rate_line(name: str, found: Ints, count: int) -> None:
    early = (found[:, 1] > 0) & (found[:, 1] <= 100)
    rates = " ".join(f"{r:>7.2f}" for r in times_asked(found, count))
    print(f"{name:<66} {rates} {early.mean() * 10:>9.2f} {(found[:, 1] > 0).sum():>7}")


def heads(title: str) -> None:
    print(f"\n{title}\n{'':<66} {'250':>7} {'1,000':>7} {'3,000':>7} {'first 100':>9} {'pauses':>7}")


def part_rate(args: argparse.Namespace) -> None:
    heads("False pauses as a multiple of the rate asked for, break-even known")
    line, count = 0, 5000
    for needed in (0.5, 0.4, 1 / 3):
        for rate in (needed, needed + 0.03, 0.53, 0.6, 0.72, 0.8):
            if rate < needed or (needed == 0.5 and rate == needed + 0.03):
                continue
            line += 1
            rate_line(
                f"win rate {rate:.2f}, break-even {needed:.2f}",
                pauses(args, line, args.bots, count, rate, known=needed), count,
            )  # fmt: skip
    for sticky, share in ((0.2, 1.0), (0.2, 0.67), (0.5, 1.0), (0.5, 0.33)):
        line += 1
        rate_line(
            f"win rate 0.60, break-even 0.50, {sticky:.0%} repeat, share {share}",
            pauses(args, line, args.bots // 2, count, 0.6, known=0.5, sticky=sticky, share=share), count,
        )  # fmt: skip


def part_estimated(args: argparse.Namespace) -> None:
    heads("The same, break-even estimated from the same trades")
    line, count = 100, 4000
    for z in args.z:
        for spread in (0.3, 1.0, 1.5):
            for payoff, rate in (
                (1.0, 0.5), (1.0, 0.53), (1.0, 0.6), (1.0, 0.72), (1.5, 0.4), (2.0, 1 / 3), (2.0, 0.4),
            ):  # fmt: skip
                line += 1
                if spread != 1.0 and (payoff, rate) not in ((1.0, 0.5), (2.0, 1 / 3), (1.0, 0.6)):
                    continue
                rate_line(
                    f"z {z}: win rate {rate:.2f}, payoff {payoff}, spread {spread}",
                    pauses(args, line, args.bots // 2, count, rate, payoff=payoff, spread=spread, z=z), count,
                )  # fmt: skip


def delays(found: Ints) -> str:
    late = found[(found == 0) | (found > HEALTHY_TRADES)]
    late = np.where(late == 0, 500, late - HEALTHY_TRADES)
    return f"{late.mean():>6.1f} {np.median(late):>4.0f} {np.quantile(late, 0.9):>4.0f}"


def part_delay(args: argparse.Namespace) -> None:
    print("\nTrades from a collapse to the pause (mean, median, 90 %), one false pause in 1,000 trades, break-even 0.5")
    print(f"{'':<16} {'CUSUM':>16} {'e-detector':>16} {'ratio':>6} {'estimated':>16} {'win rate':>16} {'Wilson':>16}")
    limits, line, count = np.arange(1.0, 6.0, 0.05), 200, HEALTHY_TRADES + 500
    for rate, later in ((0.8, 0.3), (0.8, 0.4), (0.7, 0.4), (0.7, 0.3), (0.6, 0.35), (0.55, 0.3), (0.8, 0.65)):
        line += 1
        against = (rate, later)
        lone = cusum(args.seed + line, 4000, rate, rate, 0, 20_000, against, limits)
        lengths = np.where(lone > 0, lone, 20_000).sum(axis=0) / np.maximum((lone > 0).sum(axis=0), 1)
        broken = cusum(args.seed + line + 50, 8000, rate, later, HEALTHY_TRADES, count, against, limits)
        at = int(np.searchsorted(lengths, 1000.0))
        if at == len(limits):
            raise SystemExit("no limit of the CUSUM reaches 1,000 trades")
        below = int(np.searchsorted(lengths, lengths[at - 1]))
        means = [
            float(np.where(f == 0, 500, f - HEALTHY_TRADES)[(f == 0) | (f > HEALTHY_TRADES)].mean())
            for f in (broken[:, below], broken[:, at])
        ]
        share = (math.log(1000.0) - math.log(lengths[below])) / (math.log(lengths[at]) - math.log(lengths[below]))
        best = means[0] + share * (means[1] - means[0])
        found = pauses(args, line, args.bots * 4, count, rate, later, known=0.5)[:, 1]
        late = np.where(found == 0, 500, found - HEALTHY_TRADES)[(found == 0) | (found > HEALTHY_TRADES)]
        guessed = pauses(args, line, args.bots, count, rate, later, spread=1.0, checked=0)[:, 1]
        rng = np.random.default_rng([args.seed, line])
        hits = np.hstack([
            rng.random((4000, HEALTHY_TRADES)) < rate, rng.random((4000, count - HEALTHY_TRADES)) < later
        ])  # fmt: skip
        others = []
        for alarms in (under(hits, 10, 0.5), break_even_alarms(hits, 1.0)):
            length, rang = first(alarms[alarms[:, HEALTHY_TRADES - 1] == 0][:, HEALTHY_TRADES:])
            others.append(delays(np.where(rang, length, 500) + HEALTHY_TRADES))
        exact = f"{best:>6.1f} {delays(broken[:, at])[7:]}"
        missed = f"  not paused within 500: {(found == 0).sum() / len(late):.0%}" if later > 0.5 else ""
        print(
            f"{rate:.2f} -> {later:.2f}     {exact:>16} {delays(found):>16} {late.mean() / best:>6.2f} "
            f"{delays(guessed):>16} {others[0]:>16} {others[1]:>16}{missed}"
        )
    print("\nBad from its first trade on: trades to the pause (mean, median, 90 %)")
    for later, needed in ((0.2, 0.5), (0.3, 0.5), (0.4, 0.5), (0.2, 1 / 3)):
        line += 1
        found = pauses(args, line, args.bots, 500, later, known=needed)[:, 1]
        guessed = pauses(args, line, args.bots, 500, later, payoff=1 / needed - 1, spread=1.0, checked=0)[:, 1]
        said = [delays(np.where(f > 0, f, 500) + HEALTHY_TRADES) for f in (found, guessed)]
        print(f"{later:.2f}, break-even {needed:.2f}: known {said[0]}, estimated {said[1]}")
    print("\nFalse pauses per 1,000 trades of the two old rules")
    for rate in (0.53, 0.6, 0.72, 0.8):
        hits = np.random.default_rng([args.seed, line, int(rate * 100)]).random((500, 5000)) < rate
        said = []
        for alarms in (under(hits, 10, 0.5), break_even_alarms(hits, 1.0)):
            length, rang = first(alarms)
            said.append(f"{rang.sum() / length.sum() * 1000:>8.2f}")
        print(f"win rate {rate:.2f}: win rate {said[0]}, Wilson {said[1]}")


def part_resume(args: argparse.Namespace) -> None:
    print("\nOutcomes since a pause began until it is lifted, break-even 0.5 (bad: a win rate of 0.25 before)")
    print(f"{'':<34} {'mean':>7} {'50 %':>5} {'90 %':>5} {'in 50':>7} {'in 500':>7}")
    for share in args.shares:
        for bad, rate in (
            (0, 0.3), (0, 0.4), (0, 0.45), (0, 0.5), (0, 0.55), (0, 0.6), (0, 0.7), (0, 0.8), (30, 0.6), (30, 0.8)
        ):  # fmt: skip
            late = []
            for i in range(args.bots // 2):
                rng = np.random.default_rng([args.seed, 300, i])
                won = np.concatenate([rng.random(bad) < 0.25, rng.random(500) < rate])
                late.append(500)
                for t in range(bad + 1, len(won) + 1):
                    if resume_evidence(won[:t], 0.5, false_resume_share=share).resume:
                        late[-1] = t - bad
                        break
            found = np.array(late)
            print(
                f"{f'share {share}: {bad} bad, then {rate:.2f}':<34} {found.mean():>7.1f} {np.median(found):>5.0f} "
                f"{np.quantile(found, 0.9):>5.0f} {(found <= 50).mean():>7.1%} {(found < 500).mean():>7.1%}"
            )


def part_speed(args: argparse.Namespace) -> None:
    won = np.random.default_rng(args.seed).random(MEMORY) < 0.7
    for name, asked, cache in (
        ("pause_evidence", lambda: pause_evidence(won, 0.5), e_detector._pause),
        ("resume_evidence", lambda: resume_evidence(won, 0.5), e_detector._resume),
    ):
        fresh, again = [], []
        for _ in range(500):
            cache.cache_clear()
            for times in (fresh, again):
                began = time.perf_counter()
                asked()
                times.append(time.perf_counter() - began)
        print(f"{name}: {np.median(fresh) * 1e6:.0f} us at {MEMORY} outcomes, {np.median(again) * 1e6:.1f} us again")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bots", type=int, default=600)
    parser.add_argument("--seed", type=int, default=650_000)
    parser.add_argument("--part", default="speed,rate,estimated,delay,resume")
    parser.add_argument("--z", type=float, nargs="*", default=[1.0])
    parser.add_argument("--shares", type=float, nargs="*", default=[0.1])
    args = parser.parse_args()
    print(f"{args.bots} simulated bots, seed {args.seed}")
    parts = {
        "speed": part_speed, "rate": part_rate, "estimated": part_estimated, "delay": part_delay, "resume": part_resume
    }  # fmt: skip
    for part in args.part.split(","):
        parts[part](args)


if __name__ == "__main__":
    main()
