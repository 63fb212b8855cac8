"""How much history a feature needs, found by asking: each kind of memory gets its right answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter

from regime.lookback import Compute, Computed, lookahead, lookback

Floats = NDArray[np.float64]
ROWS = 6000
RNG = np.random.default_rng(11)
CLOSE = 100 * np.exp(np.cumsum(0.001 * RNG.standard_normal(ROWS)))
VOLUME = RNG.lognormal(size=ROWS)


def rolling(x: Floats, n: int, what: Callable[..., Floats]) -> Floats:
    out = np.full(len(x), np.nan)
    if len(x) >= n:
        out[n - 1 :] = what(np.lib.stride_tricks.sliding_window_view(x, n), axis=1)
    return out


def smoothed(x: Floats, alpha: float) -> Floats:
    """Exponential average that begins with the first value."""
    return np.asarray(lfilter([alpha], [1, alpha - 1], x, zi=[x[0] * (1 - alpha)])[0])


def rsi(x: Floats, n: int) -> Floats:
    steps = np.diff(x, prepend=x[0])
    up, down = smoothed(np.maximum(steps, 0), 1 / n), smoothed(np.maximum(-steps, 0), 1 / n)
    return 100 * up / np.maximum(up + down, 1e-12)


def made_of(**features: Callable[[Floats, Floats], Floats]) -> Compute:
    def compute(start: int, end: int) -> Computed:
        columns = [make(CLOSE[start:end], VOLUME[start:end]) for make in features.values()]
        return Computed(tuple(features), np.column_stack(columns))

    return compute


def need(make: Callable[[Floats, Floats], Floats], **options: float) -> tuple[str, int | None]:
    (found,) = lookback(made_of(it=make), ROWS, **options)  # type: ignore[arg-type]
    return found.kind, found.candles


@pytest.mark.parametrize("n", [2, 14, 50, 200, 777])
def test_a_rolling_window_needs_its_length(n: int) -> None:
    kind, candles = need(lambda c, _: rolling(c, n, np.mean))
    assert kind == "window" and candles is not None
    assert n <= candles <= max(n + 1, n * 1.021)


def test_a_rolling_z_score_needs_its_window() -> None:
    kind, candles = need(lambda c, _: (c - rolling(c, 100, np.mean)) / rolling(c, 100, np.std))
    assert (kind, candles) == ("window", pytest.approx(101, abs=2))


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3])
def test_an_exponential_average_needs_what_the_formula_says(tolerance: float) -> None:
    """What is left of the first value after w candles is (1 - alpha)^w of its distance from the true average."""
    alpha, ends = 2 / 201, [ROWS, ROWS - round(ROWS / 8), ROWS - round(ROWS / 4)]
    true = smoothed(CLOSE, alpha)
    spread = true[ROWS // 2 :].std()
    left = {
        w: max(abs(CLOSE[end - w] - true[end - w]) * (1 - alpha) ** (w - 1) / spread for end in ends)
        for w in range(1, ROWS // 3)
    }
    expected = max(w for w, away in left.items() if away > tolerance) + 1
    kind, candles = need(lambda c, _: smoothed(c, alpha), tolerance=tolerance)
    assert kind == "window" and candles is not None
    # Between two sizes that are tried it may agree and disagree again: the answer is not above the last of them.
    assert expected * 0.8 <= candles <= expected * 1.03


def test_a_slow_rsi_needs_many_times_its_length() -> None:
    kind, candles = need(lambda c, _: rsi(c, 200))
    assert kind == "window" and candles is not None and 800 <= candles <= 2600


@pytest.mark.parametrize(
    "make",
    [
        lambda c, v: np.cumsum(np.sign(np.diff(c, prepend=c[0])) * v),
        lambda c, v: np.arange(len(c), dtype=float),
        lambda c, v: c / c[0],
        lambda c, v: np.cumsum(c * v) / np.cumsum(v),
        lambda c, v: (c - c.mean()) / c.std(),
    ],
    ids=["obv", "counter", "growth since the start", "vwap since the start", "scaled over everything"],
)
def test_what_depends_on_where_the_history_begins_is_told(make: Callable[[Floats, Floats], Floats]) -> None:
    assert need(make) == ("start", None)


def test_an_average_too_slow_for_the_history_is_no_running_total() -> None:
    assert need(lambda c, _: smoothed(c, 2 / 2501)) == ("long", None)


def test_a_function_that_raises_on_short_windows_needs_those_it_takes() -> None:
    def picky(c: Floats, _: Floats) -> Floats:
        if len(c) < 60:
            raise ValueError("not enough candles")
        return c

    assert need(picky) == ("window", 60)


def test_a_function_of_the_last_candle_alone_is_understood() -> None:
    """How much its features vary, and whether a difference wears off, is not to be seen in one row."""
    whole = made_of(
        mean=lambda c, _: rolling(c, 60, np.mean), obv=lambda c, v: np.cumsum(np.sign(np.diff(c, prepend=c[0])) * v),
        slow=lambda c, _: smoothed(c, 2 / 2501),
    )  # fmt: skip

    def compute(start: int, end: int) -> Computed:
        names, values = whole(start, end)
        values[:-1] = np.nan
        return Computed(names, values)

    found = {memory.name: (memory.kind, memory.candles) for memory in lookback(compute, ROWS)}
    assert found == {"mean": ("window", pytest.approx(60, abs=1)), "obv": ("start", None), "slow": ("long", None)}
    assert lookahead(compute, ROWS) == []


def test_features_of_one_candle_and_dead_ones_need_nothing() -> None:
    assert need(lambda c, _: c) == ("window", 1)
    assert need(lambda c, _: np.zeros(len(c))) == ("window", 1)


def test_columns_are_told_apart_by_name_whatever_order_a_window_gives() -> None:
    def compute(start: int, end: int) -> Computed:
        c = CLOSE[start:end]
        columns = {"fast": rolling(c, 5, np.mean), "slow": rolling(c, 300, np.mean)}
        names = sorted(columns, reverse=(end - start) % 2 == 0)
        if end - start < 300:
            names.remove("slow")
        return Computed(tuple(names), np.column_stack([columns[name] for name in names]))

    found = {memory.name: memory.candles for memory in lookback(compute, ROWS)}
    assert found["fast"] == 5 and found["slow"] == pytest.approx(300, abs=6)


def test_too_few_candles_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        lookback(made_of(it=lambda c, _: c), 10)


def test_progress_goes_up_to_the_end() -> None:
    seen: list[float] = []
    lookback(made_of(it=lambda c, _: c), ROWS, progress=seen.append)
    assert seen == sorted(seen) and seen[-1] == 1.0


def test_each_way_of_looking_ahead_is_found_and_said_how_far() -> None:
    compute = made_of(
        clean=lambda c, _: smoothed(c, 0.01),
        shifted=lambda c, _: np.append(c[3:], [np.nan] * 3),
        centred=lambda c, _: np.convolve(c, np.ones(21) / 21, "same"),
        scaled=lambda c, _: (c - c.mean()) / c.std(),
        filled=lambda c, _: np.append(c[1:], c[-1:]),
    )
    found = {peek.name: peek for peek in lookahead(compute, ROWS)}
    assert set(found) == {"shifted", "centred", "scaled", "filled"}
    assert {name: peek.candles for name, peek in found.items()} == {
        "shifted": 3, "centred": 10, "scaled": None, "filled": 1,
    }  # fmt: skip
    assert np.isinf(found["shifted"].away) and 0 < found["scaled"].away < 100


def test_rounding_is_no_looking_ahead() -> None:
    """Sums that are made in another order differ in the last digits."""
    assert lookahead(made_of(sums=lambda c, _: smoothed(c, 0.1) * (1 + 1e-15 * len(c))), ROWS) == []
