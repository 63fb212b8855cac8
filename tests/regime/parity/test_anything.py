"""Whatever stands in two tables, there is an answer: no error, no warning, shares that add up."""

from __future__ import annotations

import numpy as np
import pytest

from regime.parity import CAUSES, TOO_FEW, Table, compare

STEP = 300_000
NAMES = ("open", "high", "low", "close", "volume", "a", "b", "flag", "probability_long", "target_1")
REFUSED = ("no column in common", "one row on each side", "min apart")


def column(rng: np.random.Generator, rows: int) -> np.ndarray:
    noise = rng.standard_normal(rows)
    ways = (
        noise, np.cumsum(noise), np.zeros(rows), np.full(rows, np.nan), (noise > 0).astype(float), np.exp(noise * 20),
        noise * 1e-300, noise * 1e150, noise.round(1), np.where(noise > 0, np.nan, noise), 1e9 + noise,
    )  # fmt: skip
    return ways[rng.integers(len(ways))]


def tables(seed: int) -> tuple[Table, Table]:
    rng = np.random.default_rng(seed)
    rows = int(rng.choice([1, 2, 5, 10, 25, 40, 80, 200]))
    names = tuple(str(name) for name in rng.choice(NAMES, size=rng.integers(1, 8), replace=False))
    y = np.column_stack([column(rng, rows) for _ in names])
    x = y.copy()
    for c in range(len(names)):
        hole = rng.random(rows) < 0.2
        ways = (
            column(rng, rows), x[:, c] * rng.standard_normal(), np.roll(x[:, c], int(rng.integers(-3, 4))),
            np.where(hole, np.nan, x[:, c]), np.where(hole, 0.0, x[:, c]), x[:, c],
        )  # fmt: skip
        x[:, c] = ways[rng.integers(len(ways))]
    ts = STEP * np.arange(rows)
    moved = ts + int(rng.choice([0, 0, STEP, 12 * STEP, 1000, -7 * STEP]))
    keep = rng.random(rows) < rng.choice([1.0, 0.8, 0.3])
    keep[rng.integers(rows)] = True
    log_ms = moved + rng.uniform(0, 2 * STEP, rows) if rng.random() < 0.5 else None
    live = Table(
        moved[keep], names, np.where(np.isfinite(x), x, np.nan)[keep], None if log_ms is None else log_ms[keep]
    )
    return live, Table(ts, names, np.where(np.isfinite(y), y, np.nan))


@pytest.mark.parametrize("block", range(4))
def test_there_is_an_answer(block: int) -> None:
    answered = 0
    for seed in range(100 * block, 100 * block + 100):
        live, backtest = tables(seed)
        try:
            report = compare(live, backtest)
        except ValueError as error:
            assert any(words in str(error) for words in REFUSED), (seed, error)
            continue
        answered += 1
        assert 0 <= sum(finding.share for finding in report.findings) <= 1 + 1e-9 or not report.matched, seed
        assert report.clean or not report.conclusive or report.findings[0].cause in CAUSES, seed
        assert report.live_only.rows + report.matched == report.live_rows, seed
    assert answered > 50


def test_columns_without_a_value_are_not_called_clean() -> None:
    times = STEP * np.arange(300)
    nothing = np.full((300, 1), np.nan)
    empty = Table(times, ("a",), nothing)
    report = compare(empty, empty)
    assert report.verdict.cause == TOO_FEW and not report.clean and not report.conclusive
    some = np.column_stack([nothing, np.random.default_rng(1).standard_normal(300)])
    half = compare(Table(times, ("a", "b"), some), Table(times, ("a", "b"), some))
    assert half.clean and "1 column agrees" in half.verdict.sentence
    assert half.verdict.evidence == ("Without any value, and so not compared: a.",)
