"""Pairs of tables with one known fault between them, and pairs with none but honest differences.

A pair is made the way it comes about: both sides compute the same features from candles by the same code (`features`),
the fault is planted where it happens (in the candles, the history, the window, the columns), and what follows from it
follows. Around it lies what is no fault: six digits, missing candles, another order of columns, extra columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.signal import lfilter

from regime.parity import Table
from regime.simulate_market import make_market

Floats = NDArray[np.float64]
Rng = np.random.Generator

STEP = 300_000
HISTORY = 1_200
"""Candles before the first row: the longest average has forgotten its start to 1e-5."""
ROWS = [150, 300, 600, 1200]
"""How many candles a pair may have."""
FIRST = 1_750_000_000_000 // STEP * STEP
HOUR = 12 * STEP


@dataclass(frozen=True)
class Bars:
    ts: NDArray[np.int64]
    o: Floats
    h: Floats
    low: Floats
    c: Floats
    v: Floats

    def cut(self, start: int, stop: int) -> Bars:
        return Bars(*(getattr(self, name)[start:stop] for name in ("ts", "o", "h", "low", "c", "v")))


@dataclass(frozen=True)
class Recipe:
    """How one side computes its features."""

    windows: tuple[int, int, int, int, int] = (100, 100, 200, 96, 20)
    """Of close_z, volume_z, rsi_z, close_band, volume_ratio."""
    limit: int | None = None
    """Candles of history at each call; None is all of it."""
    cold: bool = False
    """Begin with the first candle given, and fill rolling windows as far as they go."""


def simulated(rng: Rng, rows: int) -> Bars:
    made = make_market(seed=int(rng.integers(2**31)), candles=rows, first_ms=FIRST, step_ms=STEP).candles
    return Bars(made.ts_ms, made.open, made.high, made.low, made.close, made.volume)


def read_bars(file: Path) -> Bars:
    from regime_service.logs import read_candles

    candles = read_candles(str(file), symbol="s", timeframe="5m").candles
    columns = [np.array([getattr(c, n) for c in candles]) for n in ("ts_ms", "open", "high", "low", "close", "volume")]
    return Bars(*columns)


# --- features -------------------------------------------------------------------------------------------------------


def _ema(values: Floats, alpha: float, limit: int | None, seen: Floats) -> Floats:
    """Mean of the closed candles before, then of what is `seen` of this one."""
    full = lfilter([alpha], [1.0, alpha - 1.0], values, zi=[(1 - alpha) * values[0]])[0]
    if limit is not None:
        late = np.arange(len(values)) >= limit - 1
        start = np.maximum(np.arange(len(values)) - limit + 1, 0)
        full = np.where(late, full + (1 - alpha) ** (limit - 1) * (values[start] - full[start]), full)
    before = np.concatenate(([values[0]], full[:-1]))
    if limit is None:
        return before + alpha * (seen - before)
    return full


def _mean(values: Floats, w: int, seen: Floats, recipe: Recipe) -> Floats:
    return _rolling(values, w, seen, recipe, lambda block: block.mean(axis=-1))


def _rolling(values: Floats, w: int, seen: Floats, recipe: Recipe, of: Callable[[Floats], Floats]) -> Floats:
    """`of` the last w values: w - 1 closed ones and the one that is `seen`."""
    if recipe.limit is not None:
        w = min(w, recipe.limit)
    found = np.full(len(values), np.nan)
    if len(values) >= w:
        block = sliding_window_view(values, w).copy()
        block[:, -1] = seen[w - 1 :]
        found[w - 1 :] = of(block)
    if recipe.cold:
        for t in range(1, min(w - 1, len(values))):
            found[t] = of(np.append(values[:t], seen[t])[None, :])[0]
    return found


def features(closed: Bars, recipe: Recipe, seen: Bars | None = None) -> tuple[list[str], Floats]:
    """Features of each candle from the closed ones before it and what is seen of itself."""
    seen = seen or closed
    limit = recipe.limit
    before = np.concatenate(([closed.c[0]], closed.c[:-1]))
    change, change_seen = closed.c - before, seen.c - before
    f: dict[str, Floats] = {"open": seen.o, "high": seen.h, "low": seen.low, "close": seen.c, "volume": seen.v}
    f["return_1"] = seen.c / before - 1
    f["return_5"] = seen.c / np.concatenate((np.full(5, np.nan), closed.c[:-5])) - 1
    f["sma_10"] = _mean(closed.c, 10, seen.c, recipe)
    f["sma_50"] = _mean(closed.c, 50, seen.c, recipe)
    for span in (12, 26, 50, 200):
        f[f"ema_{span}"] = _ema(closed.c, 2 / (span + 1), limit, seen.c)
    f["macd"] = f["ema_12"] - f.pop("ema_26")
    gain = _ema(np.maximum(change, 0), 1 / 14, limit, np.maximum(change_seen, 0))
    loss = _ema(np.maximum(-change, 0), 1 / 14, limit, np.maximum(-change_seen, 0))
    f["rsi_14"] = 100 * gain / np.maximum(gain + loss, 1e-12)
    f["bb_width_20"] = (
        4 * _rolling(closed.c, 20, seen.c, recipe, lambda b: b.std(axis=-1)) / _mean(closed.c, 20, seen.c, recipe)
    )
    spans = [np.maximum(b.h, before) - np.minimum(b.low, before) for b in (closed, seen)]
    f["atr_14"] = _ema(spans[0], 1 / 14, limit, spans[1])
    f["volume_sma_20"] = _mean(closed.v, 20, seen.v, recipe)
    wz, wv, wr, wb, wm = recipe.windows
    f["volume_ratio"] = seen.v / np.maximum(_mean(closed.v, wm, seen.v, recipe), 1e-9)

    def z(values: Floats, w: int, now: Floats) -> Floats:
        spread = _rolling(values, w, now, recipe, lambda b: b.std(axis=-1))
        return (now - _mean(values, w, now, recipe)) / np.maximum(spread, 1e-12)

    f["close_z"] = z(closed.c, wz, seen.c)
    f["volume_z"] = z(np.log1p(closed.v), wv, np.log1p(seen.v))
    f["rsi_z"] = z(np.nan_to_num(f["rsi_14"], nan=50.0), wr, f["rsi_14"])
    top = _rolling(closed.h, wb, seen.h, recipe, lambda b: b.max(axis=-1))
    bottom = _rolling(closed.low, wb, seen.low, recipe, lambda b: b.min(axis=-1))
    f["close_band"] = (seen.c - bottom) / np.maximum(top - bottom, 1e-9)
    f["price_vs_ema_50"] = seen.c / f["ema_50"] - 1
    f["body"] = (seen.c - seen.o) / seen.o
    f["upper_wick"] = (seen.h - np.maximum(seen.o, seen.c)) / seen.o
    f["above_ema_200"] = (seen.c > f["ema_200"]).astype(float)
    f["volume_spike"] = (f["volume_ratio"] > 2).astype(float)
    f["hour_sin"] = np.sin(2 * np.pi * (seen.ts % 86_400_000) / 86_400_000)
    f["obv"] = _total(np.sign(change) * closed.v, np.sign(change_seen) * seen.v)
    f["pvt"] = _total(change / before * closed.v, change_seen / before * seen.v)
    return list(f), np.stack(list(f.values()), axis=1)


def _total(closed: Floats, seen: Floats) -> Floats:
    return np.concatenate(([0.0], np.cumsum(closed)[:-1])) + seen


# --- a model, and the frame around a pair ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """A logistic regression on fixed scales: enough to carry a fault of the features into the probability."""

    names: tuple[str, ...]
    centre: Floats
    scale: Floats
    weights: Floats
    bias: float

    def of(self, names: list[str], values: Floats) -> Floats:
        place = [names.index(n) if n in names else -1 for n in self.names]
        z = np.where(np.array(place) >= 0, (values[:, place] - self.centre) / self.scale, 0.0)
        return 1 / (1 + np.exp(-np.clip(np.nan_to_num(z) @ self.weights + self.bias, -30, 30)))


INPUTS = ("return_5", "rsi_14", "macd", "bb_width_20", "volume_ratio", "close_z", "volume_z", "price_vs_ema_50", "body")
TOTALS = ("obv", "pvt")
CANDLE = ("open", "high", "low", "close", "volume")


def _model(rng: Rng, names: list[str], values: Floats) -> Model:
    x = values[:, [names.index(n) for n in INPUTS]]
    return Model(
        INPUTS,
        np.nanmean(x, axis=0),
        np.nanstd(x, axis=0) + 1e-9,
        rng.standard_normal(len(INPUTS)) * 0.6,
        0.3 * rng.standard_normal(),
    )


@dataclass
class Side:
    ts: NDArray[np.int64]
    names: list[str]
    values: Floats

    def col(self, name: str) -> int:
        return self.names.index(name)

    def copy(self) -> Side:
        return Side(self.ts.copy(), list(self.names), self.values.copy())

    def drop(self, names: list[str]) -> None:
        keep = [i for i, n in enumerate(self.names) if n not in names]
        self.names, self.values = [self.names[i] for i in keep], self.values[:, keep]


@dataclass
class Scene:
    """The material of a pair: closed candles with their history, and what both sides compute from them."""

    rng: Rng
    bars: Bars
    rows: int
    recipe: Recipe
    totals: bool
    model: Model | None

    def side(self, recipe: Recipe | None = None, closed: Bars | None = None, seen: Bars | None = None) -> Side:
        names, values = features(closed or self.bars, recipe or self.recipe, seen)
        made = Side((closed or self.bars).ts[-self.rows :], names, values[-self.rows :])
        if not self.totals:
            made.drop(list(TOTALS))
        return made

    def answered(self, side: Side, model: Model | None = None) -> Side:
        """With the model's probability of these features."""
        model = model or self.model
        if model is None:
            return side
        p = model.of(side.names, side.values)
        return Side(side.ts, [*side.names, "probability_long"], np.column_stack([side.values, p.round(6)]))

    def inputs(self, least: int = 1, most: int = 4) -> list[str]:
        """A few features at random, continuous ones."""
        pool = [n for n in self.features() if n not in ("above_ema_200", "volume_spike", "hour_sin")]
        return list(self.rng.choice(pool, size=int(self.rng.integers(least, most + 1)), replace=False))

    def features(self) -> list[str]:
        names, _ = features(self.bars.cut(0, 60), self.recipe)
        return [n for n in names if n not in CANDLE and (self.totals or n not in TOTALS)]


@dataclass
class LoggedScene(Scene):
    """Features as a bot logged them, not to be computed anew: faults of the table only."""

    logged: Side

    def side(self, recipe: Recipe | None = None, closed: Bars | None = None, seen: Bars | None = None) -> Side:
        assert recipe is closed is seen is None, "logged features cannot be computed anew"
        return self.logged.copy()

    def inputs(self, least: int = 1, most: int = 4) -> list[str]:
        size = int(self.rng.integers(least, most + 1))
        return [str(n) for n in self.rng.choice(self.features(), size=size, replace=False)]

    def features(self) -> list[str]:
        values = self.logged.values
        return [
            n
            for c, n in enumerate(self.logged.names)
            if n not in CANDLE and len(np.unique(values[:, c])) > 0.3 * len(values)
        ]


def _logged_scene(rng: Rng, logged: Side, probabilities: bool | None) -> Scene:
    rows = int(rng.choice(ROWS))
    start = int(rng.integers(0, len(logged.ts) - rows))
    side = Side(logged.ts[start : start + rows], list(logged.names), logged.values[start : start + rows].copy())
    empty = Bars(side.ts, *(np.zeros(rows) for _ in range(5)))
    made = LoggedScene(rng, empty, rows, Recipe(), False, None, side)
    if probabilities if probabilities is not None else rng.random() < 0.6:
        names = tuple(made.inputs(len(INPUTS), len(INPUTS)))
        x = side.values[:, [side.names.index(n) for n in names]]
        made.model = Model(names, x.mean(axis=0), x.std(axis=0), rng.standard_normal(len(names)) * 0.6, 0.0)
    return made


def read_logged(file: Path) -> Side:
    from regime_service.logs import read_reference
    from regime_service.logs.mapping import LogMapping

    reference, _ = read_reference(str(file), mapping=LogMapping(candle_as_features=True), timeframe="5m")
    assert reference.ts_ms is not None
    return Side(np.asarray(reference.ts_ms), list(reference.names), np.asarray(reference.values))


Material = Bars | Side | None
"""Real candles, a real feature log, or None: a simulated market."""


def scene(rng: Rng, bars: Material = None, *, totals: bool | None = None, probabilities: bool | None = None) -> Scene:
    if isinstance(bars, Side):
        return _logged_scene(rng, bars, probabilities)
    rows = int(rng.choice(ROWS))
    if bars is None:
        bars = simulated(rng, rows + HISTORY)
    else:
        start = int(rng.integers(0, len(bars.ts) - rows - HISTORY))
        bars = bars.cut(start, start + rows + HISTORY)
    made = Scene(rng, bars, rows, Recipe(), bool(rng.random() < 0.4) if totals is None else totals, None)
    if probabilities if probabilities is not None else rng.random() < 0.6:
        side = made.side()
        made.model = _model(rng, side.names, side.values)
    return made


def table(side: Side, log_ms: Floats | None = None) -> Table:
    return Table(side.ts, tuple(side.names), side.values, log_ms)


def honest(rng: Rng, live: Side, backtest: Side) -> tuple[Table, Table]:
    """What differs between two honest sides: digits, missing candles, late rows, order and number of columns."""
    sides = [live.copy(), backtest.copy()]
    for i, side in enumerate(sides):
        if rng.random() < 0.4:
            how = rng.integers(2)
            with np.errstate(all="ignore"):
                size = np.floor(np.log10(np.abs(side.values)))
                digits = 10.0 ** (5 - np.where(np.isfinite(size), size, 0))
                six = np.round(side.values * digits) / digits
            side.values = side.values.round(6) if how else np.where(np.isfinite(six), six, side.values)
        if rng.random() < 0.5:
            gone = rng.random(len(side.ts)) < rng.choice([0.005, 0.03, 0.15])
            if rng.random() < 0.3:
                start = int(rng.integers(0, max(1, len(side.ts) - 40)))
                gone[start : start + int(rng.integers(5, 40))] = True
            # The last row stays: some faults live in it.
            gone[[0, -1]] = False
            side.ts, side.values = side.ts[~gone], side.values[~gone]
        if rng.random() < 0.5:
            order = rng.permutation(len(side.names))
            side.names, side.values = [side.names[k] for k in order], side.values[:, order]
        if rng.random() < 0.4:
            own = ["spread_bps", "latency_ms"] if i == 0 else ["target_12", "future_return_5"]
            side.names = side.names + own
            side.values = np.column_stack([side.values, rng.standard_normal((len(side.ts), 2))])
    log_ms = None
    if rng.random() < 0.5:
        # Written a few seconds after the close, a few rows minutes late.
        log_ms = sides[0].ts + STEP + rng.uniform(2e3, 4e4, len(sides[0].ts))
        log_ms = log_ms + np.where(rng.random(len(log_ms)) < 0.01, rng.uniform(1e5, 2e6, len(log_ms)), 0.0)
    return table(sides[0], log_ms), table(sides[1])


# --- faults ---------------------------------------------------------------------------------------------------------


Fault = Callable[[Rng, "Material"], tuple[Table, Table]]


def clean(rng: Rng, bars: Material) -> tuple[Table, Table]:
    s = scene(rng, bars)
    side = s.answered(s.side())
    return honest(rng, side, side)


def missing(rng: Rng, bars: Material) -> tuple[Table, Table]:
    s = scene(rng, bars)
    backtest, live = s.side(), s.side()
    gone = s.inputs(1, 5)
    if rng.random() < 0.25:  # there by name, but never set
        for n in gone:
            live.values[:, live.col(n)] = rng.choice([0.0, np.nan])
    else:
        live.drop(gone)
    return honest(rng, s.answered(live), s.answered(backtest))


def renamed(rng: Rng, bars: Material) -> tuple[Table, Table]:
    s = scene(rng, bars)
    side = s.side()
    backtest, live = s.answered(side), s.answered(side).copy()
    picked = s.inputs(1, 3)
    if len(picked) >= 2 and rng.random() < 0.5:  # under each other's names
        at = [live.col(n) for n in picked]
        live.values[:, at] = live.values[:, np.roll(at, 1)]
    else:
        for n in picked:
            live.names[live.col(n)] = rng.choice(
                [f"{n}_v2", f"feat_{n}", n.upper() + "X", f"f{rng.integers(99)}_{n[:3]}"]
            )
    return honest(rng, live, backtest)


def unit(rng: Rng, bars: Material) -> tuple[Table, Table]:
    s = scene(rng, bars)
    backtest, live = s.side(), s.side()
    if rng.random() < 0.35:  # a scaler on one side, or another one
        for n in s.features():
            c = live.col(n)
            mean, spread = live.values[:, c].mean(), live.values[:, c].std() + 1e-12
            live.values[:, c] = (live.values[:, c] - mean) / spread
        if rng.random() < 0.5:
            for n in s.features():
                c = backtest.col(n)
                half = backtest.values[: s.rows // 2, c]
                backtest.values[:, c] = (backtest.values[:, c] - half.mean()) / (half.std() + 1e-12)
    else:
        for n in s.inputs(1, 4):
            factor = rng.choice([100.0, 0.01, 1e4, 1e-3, 1000.0, -1.0, float(np.exp(rng.uniform(-1.5, 1.5)))])
            live.values[:, live.col(n)] *= factor
            if rng.random() < 0.2:
                live.values[:, live.col(n)] += live.values[:, live.col(n)].std()
    return honest(rng, s.answered(live), s.answered(backtest))


def shift(rng: Rng, bars: Material) -> tuple[Table, Table]:
    s = scene(rng, bars)
    k = int(rng.choice([1, 1, 1, -1, -1, 2]))
    side = s.answered(s.side())
    live, backtest = side.copy(), side.copy()
    if rng.random() < 0.6:
        live.ts = live.ts + k * STEP
    else:
        names = s.features() if rng.random() < 0.5 else s.inputs(2, 6)
        at = [live.col(n) for n in names]
        live.values[:, at] = np.roll(live.values[:, at], k, axis=0)
        rows = slice(3, -3)
        live.ts, live.values, backtest.ts, backtest.values = (
            live.ts[rows],
            live.values[rows],
            backtest.ts[rows],
            backtest.values[rows],
        )
        bare = Side(
            live.ts,
            [n for n in live.names if not n.startswith("prob")],
            live.values[:, : len(live.names) - (s.model is not None)],
        )
        live = s.answered(bare)
    return honest(rng, live, backtest)


def zone(rng: Rng, bars: Material) -> tuple[Table, Table]:
    s = scene(rng, bars)
    side = s.answered(s.side())
    live, backtest = side.copy(), side.copy()
    hours = float(rng.choice([9, 9, 8, 1, 2, -5, -4, -8, 5.5, 3, 12]))
    moved = live.ts + int(hours * HOUR)
    if rng.random() < 0.2:  # daylight saving time ends inside the log
        at = int(rng.integers(s.rows // 3, 2 * s.rows // 3))
        moved[at:] -= HOUR
        _, keep = np.unique(moved, return_index=True)
        live.values, moved = live.values[keep], moved[keep]
    live.ts = moved
    return honest(rng, live, backtest)


def _partial(rng: Rng, bars: Bars, rows: NDArray[np.bool_]) -> Bars:
    """The candles as they stand at some moment before they close."""
    n = len(bars.ts)
    f = rng.uniform(0.02, 0.9, n)
    bridge = rng.standard_normal(n) * np.sqrt(f * (1 - f)) * (bars.h - bars.low) * 0.4
    c = np.clip(bars.o + f * (bars.c - bars.o) + bridge, bars.low, bars.h)
    h = np.maximum(np.maximum(bars.o, c), bars.o + (bars.h - bars.o) * np.sqrt(f) * rng.uniform(0.3, 1, n))
    low = np.minimum(np.minimum(bars.o, c), bars.o - (bars.o - bars.low) * np.sqrt(f) * rng.uniform(0.3, 1, n))
    v = bars.v * np.clip(f + 0.1 * rng.standard_normal(n), 0.01, 0.97)
    c, h, low = c.round(1 if bars.c[0] > 1e5 else 2), np.minimum(h, bars.h).round(2), np.maximum(low, bars.low).round(2)
    h, low = np.maximum(h, np.maximum(c, bars.o)), np.minimum(low, np.minimum(c, bars.o))
    return Bars(
        bars.ts,
        bars.o,
        *(np.where(rows, new, old) for new, old in ((h, bars.h), (low, bars.low), (c, bars.c), (v, bars.v))),
    )


def forming(rng: Rng, bars: Material) -> tuple[Table, Table]:
    s = scene(rng, bars)
    rows = np.zeros(len(s.bars.ts), dtype=bool)
    if rng.random() < 0.4:
        rows[-1] = True
    else:
        rows[-s.rows :] = rng.random(s.rows) < rng.choice([1.0, 0.5, 0.2, 0.05])
        rows[-s.rows // 2] = True  # a short log may have none else
    broken, whole = s.answered(s.side(seen=_partial(rng, s.bars, rows))), s.answered(s.side())
    if rows.sum() == 1 and rng.random() < 0.4:
        live, backtest = whole, broken
    else:
        live, backtest = broken, whole
    return honest(rng, live, backtest)


def feed(rng: Rng, bars: Material) -> tuple[Table, Table]:
    s = scene(rng, bars)
    n = len(s.bars.ts)
    noise = float(np.exp(rng.uniform(np.log(0.05), np.log(5.0)))) * 1e-4
    o, h, low, c = (p * (1 + noise * rng.standard_t(4, n)) for p in (s.bars.o, s.bars.h, s.bars.low, s.bars.c))
    # Some of the prices are the same to the tick, as they are on the real pair of feeds.
    same = rng.random((4, n)) < rng.choice([0.0, 0.3, 0.6])
    o, h, low, c = (
        np.where(m, old, new).round(2)
        for m, old, new in zip(same, (s.bars.o, s.bars.h, s.bars.low, s.bars.c), (o, h, low, c), strict=True)
    )
    ratio = float(np.exp(rng.uniform(-1.5, 1.5)))
    v = (s.bars.v * ratio * np.exp(rng.uniform(0.05, 0.5) * rng.standard_normal(n))).round(3)
    other = Bars(s.bars.ts, o, np.maximum.reduce([h, o, c]), np.minimum.reduce([low, o, c]), c, v)
    return honest(rng, s.answered(s.side(closed=other)), s.answered(s.side()))


def warm_up(rng: Rng, bars: Material) -> tuple[Table, Table]:
    """Too little history: at the start, or at every call."""
    s = scene(rng, bars, totals=False)
    if rng.random() < 0.5:
        ahead = int(rng.choice([0, 0, 20, 60]))
        cut = s.bars.cut(len(s.bars.ts) - s.rows - ahead, len(s.bars.ts))
        live = s.side(recipe=replace(s.recipe, cold=bool(rng.random() < 0.5)), closed=cut)
    else:
        live = s.side(recipe=replace(s.recipe, limit=int(rng.choice([210, 250, 300, 500]))))
    return honest(rng, s.answered(live), s.answered(s.side()))


def window(rng: Rng, bars: Material) -> tuple[Table, Table]:
    s = scene(rng, bars)
    windows = np.array(s.recipe.windows)
    factor = rng.choice([0.5, 0.7, 0.85, 1.15, 1.4, 2.0, 3.0])
    picked = rng.random(len(windows)) < 0.5
    picked[int(rng.integers(len(windows)))] = True
    other = np.where(picked, np.maximum((windows * factor).astype(int), 5), windows)
    live = s.side(recipe=replace(s.recipe, windows=tuple(int(w) for w in other)))
    return honest(rng, s.answered(live), s.answered(s.side()))


def cumulative(rng: Rng, bars: Material) -> tuple[Table, Table]:
    s = scene(rng, bars, totals=True)
    side = s.answered(s.side())
    live, backtest = side.copy(), side.copy()
    for n in rng.choice(TOTALS, size=int(rng.integers(1, 3)), replace=False):
        c = live.col(n)
        usual = np.abs(np.diff(live.values[:, c])).mean()
        restarts = [0, *sorted(rng.integers(1, s.rows, size=int(rng.integers(0, 4))).tolist())]
        for r in restarts:
            live.values[r:, c] -= live.values[r, c] if rng.random() < 0.7 else usual * rng.uniform(-200, 200)
    return honest(rng, live, backtest)


def filled(rng: Rng, bars: Material) -> tuple[Table, Table]:
    s = scene(rng, bars)
    live, backtest = s.side(), s.side()
    for n in s.inputs(1, 6):
        c = live.col(n)
        blank = rng.random(s.rows) < rng.choice([0.02, 0.05, 0.2])
        blank[rng.integers(10, s.rows - 10, size=4)] = True
        blank[:5] = False
        blank[-5:] = False
        ways = rng.choice(5, size=2, replace=False)
        for side, way in ((live, ways[0]), (backtest, ways[1])):
            v = side.values[:, c]
            held = v.copy()
            for t in np.flatnonzero(blank):
                held[t] = held[t - 1]
            v[blank] = (
                np.zeros(s.rows),
                held,
                np.full(s.rows, np.median(v)),
                np.full(s.rows, np.nan),
                np.full(s.rows, -1.0),
            )[way][blank]
    return honest(rng, s.answered(live), s.answered(backtest))


def model(rng: Rng, bars: Material) -> tuple[Table, Table]:
    s = scene(rng, bars, probabilities=True)
    side = s.side()
    old = s.model
    assert old is not None
    how = rng.integers(3)
    if how == 0:
        new = replace(old, weights=old.weights + rng.choice([0.1, 0.4, 1.0]) * rng.standard_normal(len(old.names)))
    elif how == 1:  # the same inputs, by position and in another order
        new = replace(old, weights=rng.permutation(old.weights))
    else:
        new = replace(old, weights=old.weights * rng.uniform(0.5, 0.9), bias=old.bias + rng.uniform(-0.5, 0.5))
    return honest(rng, s.answered(side, new), s.answered(side))


FAULTS: dict[str, Fault] = {
    "missing-column": missing,
    "renamed-column": renamed,
    "unit": unit,
    "shift": shift,
    "time-zone": zone,
    "forming-candle": forming,
    "other-feed": feed,
    "short-warm-up": warm_up,
    "other-window": window,
    "cumulative": cumulative,
    "filled": filled,
    "other-model": model,
}

OF_THE_TABLE = ("missing-column", "renamed-column", "unit", "shift", "time-zone", "filled", "other-model")
"""Faults that can be planted in a log whose features cannot be computed anew."""
