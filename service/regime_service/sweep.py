"""`regime sweep`: a backtest under many configurations, over all processors, and how far the best can be believed."""

from __future__ import annotations

import contextlib
import html
import json
import math
import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from regime.config import EngineConfig
from regime.errors import OperatorError
from regime.events import Trade
from regime.guard_value import Verdict
from regime.sweep import Sweep, Trial, choices, configured, swept
from regime_service.archive.history import ArchivedHistory, ArchiveOptions, with_stream
from regime_service.drawing.trades import Gain, gains
from regime_service.report import Backtest, ReplayOptions

Options = ReplayOptions | ArchiveOptions
"""What to play: files, or an archive."""

TRIALS_MAX = 5_000
SHOWN, DRAWN = 15, 40
"""Configurations in the printed table, and in the picture; the files hold all."""


class History(Protocol):
    """What is played under every configuration."""

    @property
    def trades(self) -> list[Trade]: ...

    @property
    def notes(self) -> list[str]:
        """What a reader of the table has to know of where it comes from."""
        ...

    def verdicts(self, config: EngineConfig) -> list[Verdict]: ...


_read_once: list[History] = []
"""In a worker process: the history."""


def run_sweep(
    console: Console, options: Options, grid: Sequence[str], *, folds: int, held_out: float, jobs: int,
    as_json: bool,
) -> int:  # fmt: skip
    """Play every combination, write `sweep.html` and `sweep.json` into `options.out`, print the table, return 0."""
    if not 2 <= folds <= 50:
        raise OperatorError(f"--folds must lie between 2 and 50, got {folds}")
    if not 0.0 <= held_out <= 0.8:
        raise OperatorError(f"--held-out must lie between 0 and 0.8, got {held_out:g}")
    if jobs < 0:
        raise OperatorError(f"--jobs must be at least 1 (or 0: one for each processor), got {jobs}")
    wanted = choices(read_grid(grid))
    if len(wanted) > TRIALS_MAX:
        raise OperatorError(f"the grid has {len(wanted):,} combinations; more than {TRIALS_MAX:,} prove nothing anyway")
    if isinstance(options, ArchiveOptions):
        options = with_stream(options)
    elif not options.trades:
        raise OperatorError("a sweep needs trades to judge by: --trades FILE, or a service's --archive DIR")
    model = options.model
    assert model is not None  # An archive's stream has been found above.
    configs = [configured(options.config, model, choice) for choice in wanted]
    with console.status("reading") if console.is_terminal and not as_json else contextlib.nullcontext():
        history = _history(options)
    if all(trade.shadow for trade in history.trades):
        raise OperatorError("there is no real trade in the list, so there is nothing to judge by")
    notes = history.notes
    _make(options.out)  # What cannot be written is said before hours of work, too.
    del history  # The processes read it themselves.
    played = _play(console, options, configs, jobs=jobs, quiet=as_json)
    verdicts = played[0]
    found = swept(
        [verdict.trade for verdict in verdicts],
        [
            Trial(choice=choice, exposures=tuple(verdict.exposure for verdict in each))
            for choice, each in zip(wanted, played, strict=True)
        ],
        folds=folds, held_out=held_out,
    )  # fmt: skip
    plain = {**json.loads(msgspec.json.encode(found)), "notes": notes}
    try:
        (options.out / "sweep.json").write_text(json.dumps(plain, indent=1) + "\n", "utf-8")
        (options.out / "sweep.html").write_text(page(found, notes), "utf-8")
    except OSError as error:
        raise _cannot_write(options.out, error) from error
    if as_json:
        console.file.write(json.dumps(plain) + "\n")
    else:
        for line in [*table(found), "", *sentences(found), *notes, f"Report: {options.out / 'sweep.html'}"]:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise _cannot_write(out, error) from error


def _cannot_write(out: Path, error: OSError) -> OperatorError:
    return OperatorError(f"{out}: cannot be written ({error.strerror or error})")


def read_grid(parts: Sequence[str]) -> dict[str, list[Any]]:
    """Return what `KEY=V1,V2 ...` says. Values are numbers, true, false or words.

    >>> read_grid(["preset=default,conservative", "entry=0.8"])
    {'preset': ['default', 'conservative'], 'entry': [0.8]}
    """
    grid: dict[str, list[Any]] = {}
    for part in parts:
        key, sign, values = part.partition("=")
        if not sign or not key or not values:
            raise OperatorError(f"--grid {part!r}: write KEY=VALUE,VALUE, for example false_pause_trades=300,1000")
        if key in grid:
            raise OperatorError(f"--grid: `{key}` stands twice")
        grid[key] = [_value(text.strip()) for text in values.split(",")]
        if "" in grid[key]:
            raise OperatorError(f"--grid {part!r}: a value is missing between two commas")
    return grid


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


# --- playing --------------------------------------------------------------------------------------------------------


def _play(
    console: Console, options: Options, configs: Sequence[EngineConfig], *, jobs: int, quiet: bool
) -> list[list[Verdict]]:
    workers = min(jobs or os.cpu_count() or 1, len(configs))
    # Spawned: a fork of a process with threads may hang.
    with (
        Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=console, transient=True, disable=quiet or not console.is_terminal,
        ) as bar,
        ProcessPoolExecutor(
            workers, mp_context=multiprocessing.get_context("spawn"), initializer=_read, initargs=(options,)
        ) as pool,
    ):  # fmt: skip
        task = bar.add_task("playing", total=len(configs))
        pending = [pool.submit(_verdicts, config) for config in configs]
        found = []
        try:
            for future in pending:
                found.append(future.result())
                bar.advance(task)
        except BrokenProcessPool:
            raise OperatorError(
                "a process of the sweep ended before its work was done (out of memory?); try fewer with --jobs 1"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
    return found


def _history(options: Options) -> History:
    return ArchivedHistory(options) if isinstance(options, ArchiveOptions) else Backtest(options)


def _read(options: Options) -> None:
    _read_once.append(_history(options))


def _verdicts(config: EngineConfig) -> list[Verdict]:
    found = _read_once[0].verdicts(config)
    # Decisions are large, and the table needs only what they came to.
    return [verdict._replace(decision=None) for verdict in found]


# --- telling --------------------------------------------------------------------------------------------------------


def named(choice: dict[str, Any] | None) -> str:
    """Return a configuration in a few words."""
    if choice is None:
        return "every trade is taken"
    return " ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in choice.items()
    )


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None or math.isnan(ratio) else f"{ratio:+.1%}"


def table(found: Sweep) -> list[str]:
    """Return the table as lines."""
    width = max(len(named(row.choice)) for row in found.rows[:SHOWN])
    lines = [f"{'':<{width}}  refused   profit  drawdown   gain a trade [90 %]            held-out end"]
    for row in found.rows[:SHOWN]:
        gain = f"{row.gain:+.3%} [{_fine(row.gain_low)}, {_fine(row.gain_high)}]"
        lines.append(
            f"{named(row.choice):<{width}}  {row.refused:>7} {_percent(row.profit_ratio):>8} {row.drawdown_ratio:>9.1%}"
            f"   {gain:<30} {_percent(row.held_out_profit_ratio)}"
        )
    if len(found.rows) > SHOWN:
        lines.append(f"({len(found.rows) - SHOWN} more in sweep.json)")
    return lines


def _fine(ratio: float) -> str:
    return "-" if math.isnan(ratio) else f"{ratio:+.3%}"


def sentences(found: Sweep) -> list[str]:
    """Say how far the best can be believed."""
    best = found.rows[0]
    said = [
        f"{found.tried} configurations were tried on {found.trades:,} trades. Best before the held-out end: "
        f"{named(best.choice)}."
    ]
    if found.luck is None:
        said.append("No configuration refused anything in time, so there is nothing to choose between.")
    elif found.within_luck:
        said.append(
            f"WARNING: the best is within luck. With all refusals shifted in time the best of the {found.tried} does "
            f"as well in {found.luck:.0%} of {found.shifts:,} shifts. Do not choose by this table; keep the default."
        )
    else:
        said.append(
            f"With all refusals shifted in time the best of the {found.tried} does as well in {found.luck:.1%} of "
            f"{found.shifts:,} shifts: more than luck."
        )
    if found.folds:
        said.append(
            f"Chosen on the past, fold by fold, it made {_percent(found.walked_profit_ratio)} in the folds after it; "
            f"without the guard they made {_percent(found.walked_profit_without_ratio)}."
        )
    if found.held_out_trades:
        said.append(
            f"On the last {found.held_out_trades:,} trades, which no choice looked at, the best made "
            f"{_percent(found.held_out_profit_ratio)}; without the guard "
            f"{_percent(found.held_out_profit_without_ratio)}. "
            "That figure is honest once: after looking at it, it is no longer held out."
        )
    return said


def page(found: Sweep, notes: Sequence[str] = ()) -> str:
    """Return the report: one file, no request to anybody."""
    told = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in [*sentences(found), *notes])
    head = "<tr><th>configuration<th>refused<th>profit<th>drawdown<th>gain a trade [90 %]<th>held-out end</tr>"
    rows = "".join(
        f"<tr><td>{html.escape(named(row.choice))}<td>{row.refused}<td>{_percent(row.profit_ratio)}"
        f"<td>{row.drawdown_ratio:.1%}<td>{row.gain:+.3%} [{_fine(row.gain_low)}, {_fine(row.gain_high)}]"
        f"<td>{_percent(row.held_out_profit_ratio)}</tr>"
        for row in found.rows
    )
    walk = "".join(
        f"<tr><td>{html.escape(named(fold.chosen))}<td>{fold.trades}<td>{fold.purged}"
        f"<td>{_percent(fold.profit_ratio)}<td>{_percent(fold.profit_without_ratio)}</tr>"
        for fold in found.folds
    )
    picture = gains([Gain(named(row.choice), row.gain, row.gain_low, row.gain_high) for row in found.rows[:DRAWN]])
    return _PAGE.format(
        look=(files("regime_service.drawing") / "look.css").read_text("utf-8"), told=told, picture=picture, head=head,
        rows=rows, walk=walk,
        walk_head="<tr><th>chosen on the past<th>trades<th>purged<th>with it<th>without the guard</tr>",
    )  # fmt: skip


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Sweep</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>{look}
body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:var(--ink);
background:var(--paper)}}
table{{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}}
td,th{{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid var(--line)}}</style>
<h1>Sweep</h1>{told}<figure><div class="wide" tabindex="0">{picture}</div>
<figcaption>Gain a trade beside trading them all, in % of the account, with its 90 % interval (blocks of ten trades).
</figcaption></figure><h2>All configurations, before the held-out end</h2>
<div class="wide" tabindex="0"><table>{head}{rows}</table></div><h2>Walk-forward</h2>
<div class="wide" tabindex="0"><table>{walk_head}{walk}</table></div></html>
"""


__all__ = ["page", "read_grid", "run_sweep", "sentences", "table"]
