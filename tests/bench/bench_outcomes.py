"""What policies for thresholds and pauses leave on the table, on simulated bots whose truth is known.

    python tests/bench/bench_outcomes.py --seed S [--quick] [--bots 10] [--policies a,b]
        [--modes shadow,blind] [--parts regret,pauses]

Part 1: regret per 1,000 signals against the oracle that takes exactly the signals that earn (`regime.simulate_bots`),
by path of the true win rate and by variant of the score. The outcome of a signal is known five signals later. `shadow`:
refused signals leave an outcome, too. `blind`: they do not. Signals under the bot's own threshold (its break-even win
rate: it trusts its score) are refused by the bot, whatever the policy, and leave nothing; only `always` takes them.

Part 2: the same policies on bots that win at a fixed rate, at or above break-even for ever, with a score that says
nothing: pauses begun per 1,000 trades (every one of them is false), and the share of signals that was paused, made
smaller, or refused for their score.

A policy is a class with `base`, `paused`, `take` and `learn`, see `Policy`.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from regime.config import EngineConfig, ModelConfig
from regime.decision import TradingState
from regime.edge import auc, auc_z
from regime.engine import Engine
from regime.events import StreamKey, Tick, Trade
from regime.simulate_bots import KINDS, VARIANTS, Bot, regret, simulate_bot, steady_bot
from regime.win_probability import WinProbability

Floats = NDArray[np.float64]
DELAY = 5
"""Signals until the outcome of one is known."""
MEMORY = 500
SIGNALS = 3000
KEY = StreamKey("bot", "BTC/USDT:USDT", "5m")
STEADY = (
    (0.53, 1.0, 0.06), (0.53, 1.0, 0.0), (0.55, 1.0, 0.06), (0.60, 1.0, 0.06), (0.72, 1.0, 0.06), (0.42, 1.5, 0.05),
    (0.45, 1.5, 0.05), (1.06 / 3, 2.0, 0.06), (0.40, 2.0, 0.06), (0.55, 2.0, 0.06),
)  # fmt: skip
"""Win rate, payoff, fee; the first and the eighth earn exactly their fees."""


class Policy(Protocol):
    """Asked before every signal that the bot would take, told of every outcome that there is."""

    base: float
    """The bot's own threshold; signals below are never asked about."""

    @property
    def paused(self) -> bool:
        """Whether it takes nothing now, whatever the score."""
        ...

    def take(self, row: int, score: float) -> float:
        """Return the share of the full size, 0..1, for signal `row` of the bot."""
        ...

    def learn(self, row: int, score: float, won: bool, returns: float, taken: float) -> None:
        """Hear what became of signal `row`; `taken` is what `take` said (0: a shadow trade)."""
        ...


Factory = Callable[[Bot, bool], Policy]
"""Makes the policy for a bot; the flag says whether refused signals will leave outcomes. It must not look ahead."""


class Run(NamedTuple):
    """`exposure` is `float64[n]`; shares are of the signals that the bot itself would take."""

    exposure: Floats
    pauses: int
    asked: int
    paused: float
    smaller: float
    refused: float


def run(factory: Factory, bot: Bot, *, shadow: bool) -> Run:
    policy = factory(bot, shadow)
    exposure = np.zeros(len(bot.score))
    asked: list[int] = []
    told = pauses = stopped = smaller = refused = 0
    before = False
    for row, score in enumerate(bot.score.tolist()):
        while told < len(asked) and asked[told] <= row - DELAY:
            past = asked[told]
            taken = float(exposure[past])
            if taken > 0 or shadow:
                policy.learn(past, float(bot.score[past]), bool(bot.won[past]), float(bot.returns[past]), taken)
            told += 1
        if score < policy.base:
            continue
        asked.append(row)
        exposure[row] = policy.take(row, score)
        now = policy.paused
        pauses += now and not before
        before = now
        stopped += now
        smaller += 0 < exposure[row] < 1
        refused += exposure[row] == 0 and not now
    n = max(len(asked), 1)
    return Run(exposure, pauses, len(asked), stopped / n, smaller / n, refused / n)


class Always:
    base = 0.0
    paused = False

    def __init__(self, bot: Bot, shadow: bool) -> None:
        pass

    def take(self, row: int, score: float) -> float:
        return 1.0

    def learn(self, row: int, score: float, won: bool, returns: float, taken: float) -> None:
        pass


class Static(Always):
    """Trust the score: take what it puts above break-even."""

    def __init__(self, bot: Bot, shadow: bool) -> None:
        self.base = self._break_even = bot.break_even


class Timed(Static):
    """Pause for 50 signals when fewer than 0.45 of the last 20 trades won, then forget (what trading libraries do)."""

    def __init__(self, bot: Bot, shadow: bool) -> None:
        super().__init__(bot, shadow)
        self._limit, self._wait = bot.break_even - 0.08, 0
        self._won: list[bool] = []

    @property
    def paused(self) -> bool:  # type: ignore[override]
        return self._wait > 0

    def take(self, row: int, score: float) -> float:
        self._wait = max(0, self._wait - 1)
        return 0.0 if self._wait else 1.0

    def learn(self, row: int, score: float, won: bool, returns: float, taken: float) -> None:
        if taken:
            self._won.append(won)
        if len(self._won) >= 20 and np.mean(self._won[-20:]) < self._limit:
            self._won, self._wait = [], 51


class Rolling(Static):
    """Pause while fewer of the last 30 outcomes won than break-even asks. Blind, it never comes back."""

    def __init__(self, bot: Bot, shadow: bool) -> None:
        super().__init__(bot, shadow)
        self._won: list[bool] = []

    @property
    def paused(self) -> bool:  # type: ignore[override]
        return len(self._won) == 30 and sum(self._won) / 30 < self._break_even

    def take(self, row: int, score: float) -> float:
        return 0.0 if self.paused else 1.0

    def learn(self, row: int, score: float, won: bool, returns: float, taken: float) -> None:
        self._won = [*self._won[-29:], won]


class Hedge(Static):
    """Take what P(win | score, now) puts above break-even, and nothing else: no test, no pause."""

    def __init__(self, bot: Bot, shadow: bool) -> None:
        super().__init__(bot, shadow)
        self._law = WinProbability()

    def take(self, row: int, score: float) -> float:
        return float(self._law.probability(score) > self._break_even)

    def learn(self, row: int, score: float, won: bool, returns: float, taken: float) -> None:
        self._law.update(score, won)


class Composed(Static):
    """The parts put together: a threshold where the score ranks, an e-gate on what passes it, a smaller size between.

    - The score counts as ranking from `rank_on` standard errors of the AUC above one half (last 500 outcomes, at least
      50) until it falls under `rank_off`. Then the threshold is that of `WinProbability`, else the bot's own.
    - The e-gate judges the outcomes of scores that the threshold in force would let through, and lifts its pause by
      its mirror image on those that came since.
    - The score ranks, but no score clears: `smaller`; and paused (`no-edge`), until one clears again, as soon as the
      gate's evidence comes within `no_edge_relief` (natural logarithm) of its limit.
    - The score does not rank, and P(win) of the stream is under break-even, but the gate has not rung: `smaller`.
    - Blind, every `EXPLORE`-th signal is taken at `smaller` during a pause; otherwise nothing could end it.
    """

    EXPLORE = 8
    hedge = True
    rank_on, rank_off = 1.0, 0.5
    hysteresis = 0.01
    smaller = 0.25
    no_edge_relief = 1.5
    false_pause_trades = 1500.0

    def __init__(self, bot: Bot, shadow: bool) -> None:
        super().__init__(bot, shadow)
        self._shadow = shadow
        self._law = WinProbability()
        self._scores: list[float] = []
        self._won: list[bool] = []
        self._since = 0
        """Outcomes seen when the gate last changed its mind."""
        self._seen = self._asked = 0
        self._gated = self._ranks = self._none_clears = self._no_edge = self._doubtful = False
        self._wanted: float | None = None
        self._threshold = math.nan  # Known with the first outcome, as `base` may still be set.

    @property
    def paused(self) -> bool:  # type: ignore[override]
        return self._gated or self._no_edge

    def take(self, row: int, score: float) -> float:
        self._asked += 1
        if self.paused:
            return self.smaller if not self._shadow and self._asked % self.EXPLORE == 0 else 0.0
        if score < self._threshold:
            return 0.0
        return self.smaller if self._doubtful or self._none_clears else 1.0

    def learn(self, row: int, score: float, won: bool, returns: float, taken: float) -> None:
        if not self._seen:
            self._wanted = self._threshold = self.base
        self._seen += 1
        self._scores = [*self._scores[1 - MEMORY :], score]
        self._won = [*self._won[1 - MEMORY :], won]
        if self.hedge:
            self._learn_threshold(score, won)
        self._learn_gate()

    def _learn_threshold(self, score: float, won: bool) -> None:
        self._law.update(score, won)
        self._wanted = self._law.threshold(
            self._break_even, base=self.base, current=self._wanted, hysteresis=self.hysteresis
        )
        wins = sum(self._won)
        if len(self._won) >= 50 and 0 < wins < len(self._won):
            z = auc_z(auc(self._scores, self._won), wins, len(self._won) - wins)
            self._ranks = z > (self.rank_off if self._ranks else self.rank_on)
        self._none_clears = self._ranks and self._wanted is None
        self._threshold = self._wanted if self._ranks and self._wanted is not None else self.base
        self._doubtful = not self._ranks and self._law.mean(self.base) < self._break_even

    def _learn_gate(self) -> None:
        from regime.e_detector import pause_evidence, resume_evidence

        recent = min(self._seen - self._since, len(self._won))
        past = list(zip(self._scores[-recent:], self._won[-recent:], strict=True)) if recent else []
        passed = np.array([won for score, won in past if score >= self._threshold], dtype=np.bool_)
        near = False
        if self._gated:
            turned = resume_evidence(passed, self._break_even).resume
        else:
            found = pause_evidence(passed, self._break_even, false_pause_trades=self.false_pause_trades)
            turned, near = found.pause, found.log_e >= found.limit - self.no_edge_relief
        self._no_edge = self._none_clears and (self._no_edge or near)
        if turned:
            self._gated, self._since = not self._gated, self._seen


class Gate(Composed):
    """The e-gate alone, on the stream as a whole."""

    hedge = False
    false_pause_trades = 1000.0


class Shipped(Static):
    """The service's own engine with a preset's rules, told of trades only; a signal comes every `CANDLES` candles.

    What it is told is what a bot would tell it: the payoff only where `payoff_known` (else it is estimated from the
    same trades), and no truth about the bot. Its probation after a pause counts, as do its cool-down and its way of
    trying a few small trades where it is blind.
    """

    CANDLES = 20
    preset = "default"
    payoff_known = True
    _CANDLE_MS = 300_000

    def __init__(self, bot: Bot, shadow: bool) -> None:
        super().__init__(bot, shadow)
        self._bot, self._shadow = bot, shadow
        self._made: Engine | None = None  # Made at the first signal, as `base` may still be set.
        self._now_ms = 1_700_000_100_000

    @property
    def _engine(self) -> Engine:
        if self._made is None:
            # After fees: what a win leaves over what a loss takes.
            payoff = (self._bot.payoff - self._bot.fee) / (1.0 + self._bot.fee) if self.payoff_known else None
            config = EngineConfig(
                preset=self.preset, clock="event", require_observations=False,
                models={KEY.model: ModelConfig(entry=self.base, payoff_ratio=payoff)},
            )  # fmt: skip
            self._made = Engine(KEY, config, lambda _: None)  # type: ignore[arg-type,return-value]
        return self._made

    @property
    def paused(self) -> bool:  # type: ignore[override]
        # A pause that tries a few trades is still the same pause.
        standing = self._engine.state.sides["long"].standing.values()
        return any(s.vote.state is TradingState.REDUCING or s.vote.exploring_ms is not None for s in standing)

    def take(self, row: int, score: float) -> float:
        self._now_ms += self.CANDLES * self._CANDLE_MS
        # What is due by time alone (a pause that tries a little) comes at its own moment.
        while (due_ms := self._engine.next_change_ms()) is not None and due_ms < self._now_ms:
            self._engine.step(self._tick(due_ms))
        answer = self._engine.step(self._tick(self._now_ms)).decision.sides.long
        if answer.state is not TradingState.ACTIVE or score < answer.entry:
            return 0.0
        return answer.size_factor

    @staticmethod
    def _tick(ts_ms: int) -> Tick:
        return Tick(**KEY._asdict(), ts_ms=ts_ms)

    def learn(self, row: int, score: float, won: bool, returns: float, taken: float) -> None:
        self._now_ms += 1  # After the last answer; no two outcomes close at the same time.
        self._engine.step(
            Trade(
                **KEY._asdict(), trade_id=str(row), side="long", entry_price=1.0, exit_price=1.0,
                opened_ms=self._now_ms - DELAY * self.CANDLES * self._CANDLE_MS, closed_ms=self._now_ms,
                # A hundredth of the account at risk: what a loss costs must not be a matter of drawdown here.
                profit_ratio=0.001 * returns, entry_probability=score, exit_reason="other", shadow=taken == 0.0,
            )
        )  # fmt: skip


class Estimated(Shipped):
    """The same, with break-even estimated from the trades."""

    payoff_known = False


POLICIES: dict[str, Factory] = {
    "always": Always,
    "score > break-even": Static,
    "timed pause": Timed,
    "rolling 30": Rolling,
    "hedge alone": Hedge,
    "e-gate alone": Gate,
    "hedge + e-gate": Composed,
    "shipped": Shipped,
    "shipped payoff unknown": Estimated,
}


def regrets(names: list[str], *, seed: int, bots: int, shadow: bool) -> None:
    print(f"\nregret per 1,000 signals, {'shadow: refused signals leave outcomes' if shadow else 'blind: they do not'}")
    print(f"{bots} bots of each path, {SIGNALS} signals each, seeds from {seed}; payoff 1, fee 0.06, break-even 0.53")
    print(f"{'policy':<22}{'score':<9}" + "".join(f"{kind:>17}" for kind in KINDS) + f"{'mean':>13}")
    for name in names:
        for variant in VARIANTS:
            lost = np.array(
                [
                    [
                        regret(run(POLICIES[name], bot, shadow=shadow).exposure, bot)
                        for bot in (simulate_bot(kind, variant, seed=seed + i, signals=SIGNALS) for i in range(bots))
                    ]
                    for kind in KINDS
                ]
            )
            cells = "".join(f"{row.mean():>17.1f}" for row in lost)
            error = math.sqrt((lost.var(axis=1, ddof=1) / bots).sum()) / len(KINDS) if bots > 1 else math.nan
            print(f"{name:<22}{variant:<9}{cells}{lost.mean():>8.1f} ±{error:>3.1f}", flush=True)


def false_pauses(names: list[str], *, seed: int, bots: int, shadow: bool) -> None:
    print(
        f"\nhealthy bots whose score says nothing, {'shadow' if shadow else 'blind'}; {bots} of each of {len(STEADY)}"
    )
    print(f"{'policy':<22}{'pauses / 1,000':>15}{'worst':>8}{'paused':>9}{'smaller':>9}{'refused':>9}{'regret':>9}")
    for name in names:
        rates, runs, lost = [], [], []
        for p, payoff, fee in STEADY:
            pauses = asked = 0
            for i in range(bots):
                bot = steady_bot(p, seed=seed + i, signals=2000, payoff=payoff, fee=fee)
                found = run(_bound(POLICIES[name]), bot, shadow=shadow)
                pauses, asked = pauses + found.pauses, asked + found.asked
                runs.append(found)
                lost.append(regret(found.exposure, bot))
            rates.append(1000 * pauses / asked)
        shares = [float(np.mean([getattr(r, share) for r in runs])) for share in ("paused", "smaller", "refused")]
        print(
            f"{name:<22}{np.mean(rates):>15.2f}{max(rates):>8.2f}"
            + "".join(f"{share:>9.1%}" for share in shares)
            + f"{np.mean(lost):>9.1f}",
            flush=True,
        )


def _bound(factory: Factory) -> Factory:
    """Let the bot's own threshold lie under all of its scores (0.8 and more), wherever break-even is."""

    def make(bot: Bot, shadow: bool) -> Policy:
        policy = factory(bot, shadow)
        policy.base = 0.8 if policy.base else 0.0
        return policy

    return make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--bots", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="two bots of each kind, shadow only")
    parser.add_argument("--modes", default="shadow,blind")
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--parts", default="regret,pauses")
    args = parser.parse_args()
    bots, modes = (2, ["shadow"]) if args.quick else (args.bots, args.modes.split(","))
    names = args.policies.split(",")
    started = time.perf_counter()
    for mode in modes:
        if "regret" in args.parts:
            regrets(names, seed=args.seed, bots=bots, shadow=mode == "shadow")
        if "pauses" in args.parts:
            false_pauses(names, seed=args.seed + 5000, bots=bots, shadow=mode == "shadow")
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
