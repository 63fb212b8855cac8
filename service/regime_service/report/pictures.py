"""The pictures of the report: PNG, drawn without a display, put into the page as data URIs.

Colours are Okabe and Ito's, which colour-blind people can tell apart; states differ by hatching as well, and sides by
the line, so that a picture also works in grey. matplotlib is loaded when the first picture is drawn.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regime.events import SIDES, Side, Trade
from regime.guard_value import Curves, Verdict
from regime.outcomes import wilson_interval
from regime_service.logs.findings import utc
from regime_service.report.story import PROBATION, DriftTrack, Stretch
from regime_service.report.words import signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

WIDTH_IN = 7.4
DAY_MS = 86_400_000
DPI = 160
FEATURES_SHOWN = 30
Z_90 = 1.6449
"""Normal quantile of a 90 % two-sided interval."""

INK, SOFT, GRID = "#1f2933", "#5f6b7a", "#e3e8ee"
BLUE, ORANGE, GREEN, SKY, VERMILION = "#0072b2", "#e69f00", "#009e73", "#56b4e9", "#d55e00"
STATE_LOOK: dict[str, tuple[str, str, str]] = {
    "ACTIVE": ("#ffffff", "", "ACTIVE: trades"),
    PROBATION: ("#cfe8f7", "...", "ACTIVE, smaller"),
    "REDUCING": ("#f6c66a", "////", "REDUCING: no new entries"),
    "HALTED": ("#d55e00", "xxxx", "HALTED: by an operator"),
}
"""State -> colour, hatching and words of the legend."""
SIDE_LINE = {"long": "-", "short": (0, (4, 2))}
_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 9.0, "axes.titlesize": 9.5, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.edgecolor": "#b8c2cc", "axes.labelcolor": SOFT, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.7,
    "axes.axisbelow": True, "xtick.color": SOFT, "ytick.color": SOFT, "text.color": INK, "legend.frameon": False,
    "legend.fontsize": 8.0, "hatch.linewidth": 0.6, "figure.facecolor": "white", "savefig.facecolor": "white",
    "timezone": "UTC", "svg.hashsalt": "regimegate",
}  # fmt: skip


class Picture(NamedTuple):
    """A picture and its one-sentence caption; or, without `png`, the sentence that says why there is none."""

    name: str
    title: str
    caption: str
    png: bytes | None

    @property
    def data_uri(self) -> str:
        assert self.png is not None
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


def _picture(name: str, title: str, caption: str, height_in: float, draw: Callable[[Figure], None]) -> Picture:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_RC):
        figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, layout="constrained")
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return Picture(name, title, caption, buffer.getvalue())


def _times(ts_ms: Sequence[int] | NDArray[Any]) -> Any:
    return np.asarray(ts_ms, dtype="int64").astype("datetime64[ms]")


def _time_axis(axes: Axes, span: tuple[int, int] | None = None) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=8)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    if span is not None:
        # A period of one moment has no width; an hour to each side is something to look at.
        wide = (span[0] - 3_600_000, span[1] + 3_600_000) if span[0] == span[1] else span
        axes.set_xlim(*_times(wide))


def _legend(axes: Axes) -> None:
    """Put the legend on the line of the title, where it covers nothing."""
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.99), ncols=4, borderaxespad=0.0, columnspacing=1.4)


def _percent(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g} %"))


# --- price and states -----------------------------------------------------------------------------------------------


def price(
    prices: tuple[Sequence[int], Sequence[float], str],
    stretches: Mapping[Side, list[Stretch]],
    period_ms: tuple[int, int],
) -> Picture:
    """Price over time with a band per side that shows its states. `prices` are times, values and their source."""
    name, title = "price", "Price and states"
    ts_ms, values, source = prices
    if not any(stretches.values()):
        return Picture(name, title, "No picture of price and states: the period has no length.", None)

    def draw(figure: Figure) -> None:
        if len(values) > 1:
            top, bands = figure.subplots(2, 1, sharex=True, height_ratios=[3.0, 1.0])
            for stretch in (s for side in SIDES for s in stretches[side] if s.label in ("REDUCING", "HALTED")):
                # One side paused: a light veil; both sides: twice as dark.
                top.axvspan(*_times([stretch.since_ms, stretch.until_ms]), color=ORANGE, alpha=0.09, linewidth=0)
            for start, stop in _runs(ts_ms):
                top.plot(_times(ts_ms[start:stop]), values[start:stop], color=INK, linewidth=0.9)
            top.set_ylabel("price")
            top.set_title(f"Price ({source}); shaded where a side was paused")
            low, high = min(values), max(values)
            margin = (high - low) * 0.06 or abs(high) * 0.01
            top.set_ylim(low - margin, high + margin)
        else:
            bands = figure.subplots(1, 1)
        _bands(bands, stretches)
        _time_axis(bands, period_ms)

    caption = (
        f"What each side was told from {utc(period_ms[0])} to {utc(period_ms[1])} UTC: "
        "hatched is paused, dotted is trading at a smaller size, white is trading."
    )
    return _picture(name, title, caption, 4.2 if len(values) > 1 else 1.9, draw)


def _runs(ts_ms: Sequence[int]) -> list[tuple[int, int]]:
    """Return slices without a hole, so that no line is drawn over hours that nobody saw."""
    if len(ts_ms) < 3:
        return [(0, len(ts_ms))]
    steps = np.diff(np.asarray(ts_ms))
    usual = max(float(np.median(steps)), 1.0)
    cuts = [int(i) + 1 for i in np.flatnonzero(steps > 6 * usual)]
    # Prices of trades come at any distance: cutting between most of them would leave dots.
    if len(cuts) > len(ts_ms) // 10:
        return [(0, len(ts_ms))]
    return list(zip([0, *cuts], [*cuts, len(ts_ms)], strict=True))


def _bands(axes: Axes, stretches: Mapping[Side, list[Stretch]]) -> None:
    from matplotlib.patches import Patch

    seen: set[str] = set()
    for row, side in enumerate(reversed(SIDES)):
        for state, (colour, hatch, _) in STATE_LOOK.items():
            spans = [
                (since_ms / DAY_MS, (until_ms - since_ms) / DAY_MS)  # matplotlib's own time: days since 1970
                for since_ms, until_ms, its in _labels(stretches[side])
                if its == state
            ]
            if spans:
                seen.add(state)
                axes.broken_barh(
                    spans, (row + 0.12, 0.76), facecolors=colour, edgecolors="#7a5a12", linewidth=0.4, hatch=hatch
                )
    axes.xaxis_date(tz="UTC")
    axes.set_ylim(0, 2)
    axes.set_yticks([0.5, 1.5], ["short", "long"])
    axes.grid(visible=False)
    handles = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="#7a5a12", linewidth=0.4, label=words)
        for state, (colour, hatch, words) in STATE_LOOK.items()
        if state in seen
    ]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=2, handlelength=2.4)


def _labels(stretches: Sequence[Stretch]) -> list[tuple[int, int, str]]:
    """Return (since, until, label) with neighbours of the same label joined: a new threshold is no new state."""
    found: list[tuple[int, int, str]] = []
    for stretch in stretches:
        if found and found[-1][2] == stretch.label and found[-1][1] == stretch.since_ms:
            found[-1] = (found[-1][0], stretch.until_ms, stretch.label)
        else:
            found.append((stretch.since_ms, stretch.until_ms, stretch.label))
    return found


# --- drift -----------------------------------------------------------------------------------------------------------


def drift(kind: str, track: DriftTrack | None, *, why_not: str, period_ms: tuple[int, int]) -> Picture:
    """Family statistic of one detector against its limit, and each of its top features over time."""
    name, title = f"drift-{kind}", f"Drift of the features ({kind})"
    if track is None:
        return Picture(name, title, f"No picture of drift by {kind}: {why_not}.", None)
    top = track.top(FEATURES_SHOWN)
    index = {feature: i for i, feature in enumerate(track.names)}
    rows = [index[feature] for feature, _ in top]

    def draw(figure: Figure) -> None:
        from matplotlib.colors import BoundaryNorm, ListedColormap

        heights = [1.5, max(0.17 * len(rows), 0.6)] if rows else [1.0]
        grid = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)
        line = grid[0, 0]
        statistic, limit = np.array(track.statistic), np.array(track.limit)
        for start, stop in _runs(track.ts_ms):
            at = _times(track.ts_ms[start:stop])
            line.plot(at, statistic[start:stop], color=BLUE, linewidth=1.1, label="all features" if not start else None)
            if np.isfinite(limit).any():
                line.plot(
                    at, limit[start:stop], color=VERMILION, linewidth=1.1, linestyle="--",
                    label="limit" if not start else None,
                )  # fmt: skip
                over = statistic[start:stop] > limit[start:stop]
                line.fill_between(
                    at, limit[start:stop], statistic[start:stop], where=over.tolist(), color=ORANGE, alpha=0.35,
                    linewidth=0, interpolate=True,
                )  # fmt: skip
        line.set_title(
            "All features together" + ("" if np.isfinite(limit).any() else " (reference too short for a limit)")
        )
        _legend(line)
        line.set_ylabel("statistic")
        line.set_ylim(bottom=min(0.0, float(np.nanmin(statistic))))
        line.margins(y=0.25)
        if rows:
            heat = grid[1, 0]
            levels = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0]
            colours = [
                "#ffffff",
                "#eef1f4",
                "#dde3e9",
                "#c6d0d9",
                "#fbd38a",
                "#f0a94a",
                "#d97b29",
                "#a84e18",
                "#6b2a0b",
            ]
            norm = BoundaryNorm(levels, len(colours), extend="max")
            edges = _times(track.start_ms + np.arange(track.features.shape[1] + 1) * track.step_ms)
            heat.patch.set(hatch="///", edgecolor="#d3dae1", linewidth=0)  # shows where there is nothing to judge yet
            mesh = heat.pcolormesh(
                edges, np.arange(len(rows) + 1), track.features[rows], cmap=ListedColormap(colours), norm=norm,
                rasterized=True,
            )  # fmt: skip
            heat.set_yticks(np.arange(len(rows)) + 0.5, [_short(track.names[i]) for i in rows], fontsize=7)
            heat.invert_yaxis()
            heat.grid(visible=False)
            heat.set_title(f"The {len(rows)} features that left their range most")
            bar = figure.colorbar(mesh, ax=heat, location="bottom", shrink=0.6, aspect=40, pad=0.02, ticks=levels)
            bar.set_label(
                "times the feature's own limit; grey is inside, brown is over it, hatched is not known", fontsize=8
            )
            bar.ax.tick_params(labelsize=7)
        _time_axis(grid[-1, 0], (max(period_ms[0], track.start_ms), min(period_ms[1], track.ts_ms[-1])))

    if not np.isfinite(track.limit).any():
        caption = (
            "How far the features as a whole went from the reference; it is too short to say from which value on that "
            "is too far, so drift was not judged."
        )
        return _picture(name, title, caption, 2.4, draw)
    largest = f"; {top[0][0]} went furthest, to {top[0][1]:.1f} times its limit" if top else ""
    caption = (
        f"Over its limit, the features as a whole have left the training distribution: {track.over} of "
        f"{len(track.ts_ms)} observations that could be judged{largest}."
    )
    return _picture(name, title, caption, 2.4 + (0.17 * len(rows) + 1.0 if rows else 0.0), draw)


def _short(name: str, most: int = 28) -> str:
    # "$" begins a formula in matplotlib; a feature's name is not one.
    plain = (name if len(name) <= most else name[: most - 1] + "…").replace("$", r"\$")
    return "".join(c if c.isprintable() else "?" for c in plain)


# --- trades ----------------------------------------------------------------------------------------------------------


def win_rate(trades: Sequence[Trade]) -> Picture:
    """Win rate over the last 50 trades of each side with its Wilson interval, over the last 10, and break-even."""
    name, title = "win-rate", "Win rate, net of fees"
    sides = {side: [t for t in trades if t.side == side] for side in SIDES}
    shown = {side: its for side, its in sides.items() if len(its) >= 10}
    if not shown:
        have = " and ".join(f"{len(its)} {side}" for side, its in sides.items())
        return Picture(name, title, f"No picture of the win rate: it needs 10 closed trades of a side ({have}).", None)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(len(shown), 1, sharex=True, squeeze=False)
        for row, (side, its) in enumerate(shown.items()):
            _win_rate(grid[row, 0], side, its, legend=row == 0)
        span = (min(its[0].closed_ms for its in shown.values()), max(its[-1].closed_ms for its in shown.values()))
        _time_axis(grid[-1, 0], span)

    caption = (
        "Each line is the share of winners after fees among the last trades of a side; where even the upper edge of "
        "the band (90 % Wilson interval of the last 50) is under break-even, the side does not earn its fees."
    )
    return _picture(name, title, caption, 1.0 + 1.9 * len(shown), draw)


def _win_rate(axes: Axes, side: str, trades: Sequence[Trade], *, legend: bool) -> None:
    at = _times([t.closed_ms for t in trades])
    won = np.array([t.profit_ratio > 0 for t in trades], dtype=np.float64)
    ten, fifty = (_rolling(won, window) for window in (10, 50))
    axes.step(at[9:], ten * 100, where="post", color=SOFT, linewidth=0.7, alpha=0.75, label="last 10")
    if len(fifty):
        bounds = np.array([wilson_interval(round(rate * 50), 50, Z_90) for rate in fifty]) * 100
        axes.fill_between(at[49:], bounds[:, 0], bounds[:, 1], step="post", color=SKY, alpha=0.35, linewidth=0)
        axes.step(at[49:], fifty * 100, where="post", color=BLUE, linewidth=1.5, label="last 50, with 90 % interval")
    needed = break_even_so_far(trades) * 100
    if not np.isnan(needed).all():
        axes.step(at, needed, where="post", color=VERMILION, linewidth=1.2, linestyle="--", label="break-even so far")
    axes.set_ylim(0, 100)
    axes.set_title(f"{side}: {len(trades)} trades, {won.mean():.0%} won")
    _percent(axes)
    if legend:
        _legend(axes)


def _rolling(values: Floats, window: int) -> Floats:
    if len(values) < window:
        return np.empty(0)
    total = np.concatenate(([0.0], np.cumsum(values)))
    means: Floats = (total[window:] - total[:-window]) / window
    return means


def break_even_so_far(trades: Sequence[Trade]) -> Floats:
    """Return after each trade the break-even win rate of the trades up to it: mean loss / (mean win + mean loss).

    NaN until there is at least one trade of each kind.
    """
    made = np.array([t.profit_ratio for t in trades], dtype=np.float64)
    gain, loss = np.maximum(made, 0.0), np.maximum(-made, 0.0)
    gains, losses = np.cumsum(made > 0), np.cumsum(made < 0)
    known = (gains > 0) & (losses > 0)
    mean_gain = np.cumsum(gain) / np.maximum(gains, 1)
    mean_loss = np.cumsum(loss) / np.maximum(losses, 1)
    needed: Floats = np.where(known, mean_loss / np.where(known, mean_gain + mean_loss, 1.0), np.nan)
    return needed


def thresholds(
    stretches: Mapping[Side, list[Stretch]], base: tuple[float, float], period_ms: tuple[int, int]
) -> Picture:
    """Entry and exit threshold of each side over time."""
    name, title = "thresholds", "Thresholds"
    values = {(s.said.entry, s.said.exit) for side in SIDES for s in stretches[side]}
    if values <= {base}:
        why = f"they stood at their base ({base[0]:.2f} to enter, {base[1]:.2f} to leave) all the time"
        return Picture(name, title, f"No picture of the thresholds: {why}.", None)

    moved = [what for i, what in enumerate(("entry", "exit")) if {pair[i] for pair in values} != {base[i]}]

    def draw(figure: Figure) -> None:
        grid = figure.subplots(len(moved), 1, sharex=True, squeeze=False)
        for axes, what in zip(grid[:, 0], moved, strict=True):
            every = [float(getattr(s.said, what)) for side in SIDES for s in stretches[side]]
            spread = max(max(every) - min(every), 0.05)
            for side, colour, nudge in (("long", BLUE, 0.012), ("short", VERMILION, -0.012)):
                its = stretches[side]  # type: ignore[index]
                if its:
                    at = _times([s.since_ms for s in its] + [its[-1].until_ms])
                    level = [getattr(s.said, what) + nudge * spread for s in its]
                    axes.step(
                        at, [*level, level[-1]], where="post", color=colour, linewidth=1.4, linestyle=SIDE_LINE[side],
                        label=side,
                    )  # fmt: skip
            axes.set_ylim(min(every) - 0.25 * spread, max(every) + 0.25 * spread)
            axes.set_title(f"{what} threshold")
        _legend(grid[0, 0])
        _time_axis(grid[-1, 0], period_ms)

    still = "" if len(moved) == 2 else f"; the {'exit' if moved == ['entry'] else 'entry'} threshold never moved"
    caption = (
        f"A threshold above its base ({base[0]:.2f} to enter, {base[1]:.2f} to leave) asks for a stronger signal "
        f"(the two sides are drawn a hair apart){still}."
    )
    return _picture(name, title, caption, 1.0 + 1.2 * len(moved), draw)


def equity(curve: Curves, judged: Sequence[Verdict]) -> Picture:
    """Equity with and without the guard, and when trades were refused."""
    name, title = "equity", "Equity with and without the guard"
    if len(curve.closed_ms) < 2:
        return Picture(name, title, "No picture of the equity: it needs at least two closed trades.", None)
    refused = [v.trade.opened_ms for v in judged if v.refused]

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, 1)
        at = _times([min(v.trade.opened_ms for v in judged), *curve.closed_ms])
        plain, guarded = (np.array([1.0, *values]) * 100 for values in (curve.without, curve.guarded))
        axes.step(at, plain, where="post", color=SOFT, linewidth=1.2, linestyle="--", label="every trade of the list")
        axes.step(at, guarded, where="post", color=BLUE, linewidth=1.7, label="with the guard")
        axes.axhline(100, color="#9aa5b1", linewidth=0.8)
        values = np.concatenate((plain, guarded))
        if values.max() > 10 * max(values.min(), 1e-9):
            axes.set_yscale("log")
        if refused:
            axes.plot(
                _times(refused), np.full(len(refused), 0.025), transform=axes.get_xaxis_transform(), linestyle="none",
                marker="|", markersize=7, color=VERMILION, alpha=0.7, label="a refused trade", clip_on=True,
            )  # fmt: skip
        axes.margins(x=0.01)
        low, high = axes.get_ylim()
        if axes.get_yscale() == "linear":
            axes.set_ylim(low - 0.06 * (high - low), high + 0.12 * (high - low))
        axes.set_ylabel("account (start = 100)")
        _legend(axes)
        _time_axis(axes)

    end, guarded_end = curve.without[-1] - 1, curve.guarded[-1] - 1
    caption = (
        f"Every trade taken ends at {signed(end)}, with the guard at {signed(guarded_end)}; refused trades were "
        "followed on paper, as if the bot had shadowed them."
    )
    return _picture(name, title, caption, 3.1, draw)
