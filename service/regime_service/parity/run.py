"""The command `regime parity`: read both sides, compare them, say what was found."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from regime.errors import OperatorError
from regime.parity import ParityReport, Tolerance, compare
from regime.timeframe import timeframe_ms
from regime_service.logs import LogMapping
from regime_service.logs.findings import listed
from regime_service.logs.tables import Paths, sources
from regime_service.parity import words
from regime_service.parity.page import columns_csv, page
from regime_service.parity.reading import Side, pairs_in, read_both, read_side

CLEAN, DIFFERENT, UNUSABLE = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class ParityOptions:
    """What to compare, and where the answer goes."""

    live: str
    backtest: str | None
    """None: `live` is one file that holds both sides."""
    columns: tuple[str, str] | None = None
    """Words that tell the two sides' columns apart in such a file."""
    pair: str | None = None
    all_pairs: bool = False
    timeframe: str | None = None
    relative: float | None = None
    """Relative tolerance; None is the default of `regime.parity.Tolerance`."""
    live_mapping: LogMapping = field(default_factory=LogMapping)
    backtest_mapping: LogMapping = field(default_factory=LogMapping)
    out: Path | None = None
    json: bool = False


@dataclass(frozen=True)
class _Job:
    """One market: its files, and what its rows hold in the column that names the market."""

    pair: str | None
    live: Paths
    backtest: Paths | None
    only_live: dict[str, str]
    only_backtest: dict[str, str]


@dataclass(frozen=True)
class _Done:
    pair: str | None
    report: ParityReport
    live: Side
    backtest: Side


def run_parity(options: ParityOptions, console: Console) -> int:
    """Compare, print (or write) the report, and return 0 for clean, 1 where something differs, 2 where nothing can be
    said: too few candles in common, or none.

    Raises `OperatorError` in one sentence for files or options that cannot be used.
    """
    if options.timeframe is not None:
        try:
            timeframe_ms(options.timeframe)
        except ValueError as error:
            raise OperatorError(str(error)) from None
    if options.pair is not None and options.all_pairs:
        raise OperatorError("--pair and --all-pairs say two different things; give one of them")
    with _bar(console, quiet=options.json) as say:
        done = [_compare(options, job, say) for job in _jobs(options)]
    if options.out is not None:
        for one in done:
            _write(options.out / _folder(one.pair) if one.pair else options.out, one, options)
    if options.json:
        plain = [_plain(one) for one in done]
        console.file.write(json.dumps(plain if options.all_pairs else plain[0], ensure_ascii=False) + "\n")
    else:
        for one in done:
            _print(one, console)
        if options.out is not None:
            console.print(f"Report: {options.out}", markup=False, highlight=False, soft_wrap=True)
    codes = [_code(one.report) for one in done]
    for one, code in zip(done, codes, strict=True):
        if code == UNUSABLE:
            print(f"regime parity: {one.report.verdict.sentence}", file=sys.stderr)
    return DIFFERENT if DIFFERENT in codes else max(codes)


def _code(report: ParityReport) -> int:
    return CLEAN if report.clean else DIFFERENT if report.conclusive else UNUSABLE


# --- which markets --------------------------------------------------------------------------------------------------


def _jobs(options: ParityOptions) -> list[_Job]:
    if options.pair is None and not options.all_pairs:
        return [_Job(None, options.live, options.backtest, {}, {})]
    live = _markets(options.live, options.live_mapping)
    backtest = _markets(options.backtest, options.backtest_mapping) if options.backtest is not None else live
    by_key = {_key(name): name for name in backtest}
    both = {name: by_key[_key(name)] for name in live if _key(name) in by_key}
    if options.pair is not None:
        both = {name: other for name, other in both.items() if _key(name) == _key(options.pair)}
    if not both:
        asked = f"market {options.pair} is not" if options.pair is not None else "no market is"
        raise OperatorError(
            f"{asked} on both sides: LIVE has {listed(live) or 'none'}, BACKTEST {listed(backtest) or 'none'}. A "
            f"market is "
            "told by a column `pair` or `symbol`, or by the names of the files in a folder"
        )
    return [
        _Job(
            name,
            live[name][0],
            backtest[other][0] if options.backtest is not None else None,
            live[name][1],
            backtest[other][1],
        )
        for name, other in both.items()
    ]


def _markets(path: str, mapping: LogMapping) -> dict[str, tuple[Paths, dict[str, str]]]:
    """The markets of one side: by the column that names them, else by file names of a folder."""
    found = pairs_in(path, mapping)
    if found is not None:
        column, names = found
        return {name: (path, {column: name} if len(names) > 1 else {}) for name in names}
    files = sources(path)
    if len(files) < 2:
        return {}
    return {Path(source.name).name.split(".")[0]: (source.name, {}) for source in files}


def _key(pair: str) -> str:
    """Spellings of one market: `BTC/USDT`, `BTC-USDT`, `BTC_USDT-5m`."""
    return re.sub(r"[^A-Z0-9]", "", re.sub(r"[-_]\d+[mhdw]([-_].*)?$", "", pair).upper())


# --- one comparison -------------------------------------------------------------------------------------------------


def _compare(options: ParityOptions, job: _Job, say: Any) -> _Done:
    def reading(rows: int, name: str) -> None:
        say(f"reading {name}: {rows:,} rows")

    if job.backtest is None:
        live, backtest = read_both(
            str(job.live), options.live_mapping, timeframe=options.timeframe, only=job.only_live, words=options.columns,
            progress=reading,
        )  # fmt: skip
    else:
        live = read_side(
            job.live, options.live_mapping, timeframe=options.timeframe, only=job.only_live, progress=reading
        )
        backtest = read_side(
            job.backtest,
            options.backtest_mapping,
            timeframe=options.timeframe,
            only=job.only_backtest,
            progress=reading,
        )
    tolerance = Tolerance() if options.relative is None else _tolerance(options.relative)
    step_ms = timeframe_ms(options.timeframe) if options.timeframe is not None else None
    try:
        report = compare(live.table, backtest.table, step_ms=step_ms, tolerance=tolerance, progress=say)
    except ValueError as error:
        raise OperatorError(str(error)) from None
    return _Done(job.pair, report, live, backtest)


def _tolerance(relative: float) -> Tolerance:
    try:
        return Tolerance(relative=relative, spread=max(relative, Tolerance().spread))
    except ValueError:
        raise OperatorError(f"--tolerance must lie in 0..1, got {relative:g}") from None


@contextmanager
def _bar(console: Console, *, quiet: bool) -> Iterator[Any]:
    """What is being done, on a terminal; nothing in a pipe."""
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), console=console, transient=True,
        disable=quiet or not console.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("reading", total=None)
        yield lambda text: bar.update(task, description=text)


# --- the answer -----------------------------------------------------------------------------------------------------


def _said(done: _Done) -> list[str]:
    """What was found while reading, that a person should know; each side by its name."""
    found = []
    sides = [("LIVE", done.live), ("BACKTEST", done.backtest)]
    if done.live.findings is done.backtest.findings:
        sides = [("The file", done.live)]
    for name, side in sides:
        found += [f"{name}: {sentence}" for sentence in (*side.notes, *side.findings.sentences()[1:])]
    return found


def _print(done: _Done, console: Console) -> None:
    if done.pair is not None:
        console.print(f"== {done.pair}", markup=False, highlight=False)
    for line in words.lines(done.report):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    said = _said(done)
    if said:
        console.print("\nFound while reading:", markup=False, highlight=False)
    for sentence in said:
        console.print(f"  {sentence}", markup=False, highlight=False, soft_wrap=True)


def _plain(done: _Done) -> dict[str, Any]:
    return {
        "pair": done.pair, "clean": done.report.clean, **asdict(done.report),
        "reading": {"live": done.live.findings.to_builtins(), "backtest": done.backtest.findings.to_builtins(),
                    "sentences": _said(done)},
    }  # fmt: skip


def _folder(pair: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "_", pair)


def _write(folder: Path, done: _Done, options: ParityOptions) -> None:
    title = f"Parity of {Path(options.live).name}" + (f", {done.pair}" if done.pair else "")
    files = {
        "report.html": page(done.report, title, _said(done)),
        "report.json": json.dumps(_plain(done), ensure_ascii=False, indent=1) + "\n",
        "columns.csv": columns_csv(done.report),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, "utf-8")
    except OSError as error:
        raise OperatorError(f"{folder}: cannot be written ({error.strerror or error})") from None
