"""`regime preflight`: before a model goes live, what makes its backtest and its live run differ, check by check.

The user's feature function is a program of the user's own, named as `package.module:function` or
`path/to/file.py:function`. It is imported and run in this process, with all its rights: name no function you would not
run yourself.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from regime.config import exit_kind
from regime.errors import OperatorError
from regime.lookback import Computed, lookahead, lookback, only_last
from regime.outcomes import Outcome
from regime.preflight import Check, check_lookahead, check_lookback, check_model, check_repeatable, check_values, worst
from regime_service.logs import LogMapping, TradeMapping, read_candles, read_reference, read_trades

Floats = NDArray[np.float64]
DAY_MS = 86_400_000
CANDLES_MAX = 20_000
"""Candles given to the function at most, the newest: a few hundred calls with up to half of them."""
LOGGED_MIN = 30
"""Rows of logged features under which nothing is said."""
CANDLE_COLUMNS = ("open", "high", "low", "close", "volume")


@dataclass(frozen=True, kw_only=True)
class PreflightOptions:
    """What the command line said."""

    features: tuple[str, ...]
    function: str | None
    candles: tuple[str, ...]
    trades: tuple[str, ...]
    trained_until: str | None
    live_candles: int | None
    candles_max: int
    tolerance: float
    timeframe: str
    fee_ratio: float
    payoff_ratio: float | None
    reference_mapping: LogMapping
    candle_mapping: LogMapping
    trade_mapping: TradeMapping


def run_preflight(console: Console, options: PreflightOptions, *, as_json: bool) -> int:
    """Run every check there is something to look at for, print them, and return 1 where one failed, else 0."""
    if not (options.features or options.function or options.trades):
        raise OperatorError(
            "nothing to look at: give --features (logged features), --function with --candles (your feature function), "
            "--trades (what the model did), or several of them"
        )
    if not 0 < options.tolerance < math.inf:
        raise OperatorError(
            f"--tolerance must be above 0 (standard deviations of a feature), got {options.tolerance:g}"
        )
    if options.live_candles is not None and options.live_candles < 1:
        raise OperatorError(f"--live-candles must be at least 1, got {options.live_candles}")
    if options.function and not options.candles:
        raise OperatorError("--function needs --candles: the history that the function makes its features of")
    checks: list[Check] = []
    said: list[str] = []
    with Progress(
        TextColumn("{task.description}"), BarColumn(), console=console, transient=True,
        disable=as_json or not console.is_terminal,
    ) as bar:  # fmt: skip
        if options.features:
            found, sentences = _of_log(options)
            checks, said = checks + found, said + sentences
        if options.function:
            task = bar.add_task("calling your function", total=1.0)
            checks += _of_function(options, lambda share: bar.update(task, completed=share))
    if options.trades:
        found, sentences = _of_trades(options)
        checks, said = checks + found, said + sentences
    if as_json:
        console.file.write(json.dumps({"verdict": worst(checks), "checks": msgspec.to_builtins(checks)}) + "\n")
    else:
        lines = [f"{check.verdict:<5} {check.name}: {check.sentence}" for check in checks]
        for line in [*said, *lines, _conclusion(checks, options)]:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 1 if worst(checks) == "FAIL" else 0


def _conclusion(checks: Sequence[Check], options: PreflightOptions) -> str:
    number = {verdict: sum(check.verdict == verdict for check in checks) for verdict in ("PASS", "WARN", "FAIL")}
    counted = f"{number['PASS']} passed, {number['WARN']} warned, {number['FAIL']} failed"
    advice = {"PASS": "", "WARN": " Read the warnings before it trades.", "FAIL": " Mend what failed before it trades."}
    unseen = {
        "look-back and look-ahead (--function, --candles)": not options.function,
        "what the features look like (--features)": not (options.features or options.function),
        "what the model did (--trades)": not options.trades,
    }
    left = "; ".join(what for what, missing in unseen.items() if missing)
    return f"{counted}.{advice[worst(checks)]}" + (f" Not looked at: {left}." if left else "")


def _of_log(options: PreflightOptions) -> tuple[list[Check], list[str]]:
    reference, findings = read_reference(
        list(options.features), mapping=_with_candles(options.reference_mapping), timeframe=options.timeframe
    )
    if len(reference.values) < LOGGED_MIN:
        raise OperatorError(
            f"--features: {_rows(len(reference.values))}; nothing can be told of fewer than {LOGGED_MIN} candles, and "
            "little of fewer than a few thousand"
        )
    close = reference.values[:, reference.names.index("close")] if "close" in reference.names else None
    return check_values(reference.names, reference.values, close), findings.sentences()


def _rows(number: int) -> str:
    return "there is 1 row" if number == 1 else f"there are {number:,} rows"


def _with_candles(mapping: LogMapping) -> LogMapping:
    # What stands in a log of features may well be one, prices too.
    return msgspec.structs.replace(mapping, candle_as_features=True)


def _of_function(options: PreflightOptions, progress: Callable[[float], None]) -> list[Check]:
    import pandas as pd

    function = load_function(options.function or "")
    log = read_candles(
        list(options.candles), symbol="-", timeframe=options.timeframe, mapping=options.candle_mapping
    )  # fmt: skip
    candles = log.candles[-options.candles_max :]
    if len(candles) < 200:
        raise OperatorError(f"{len(candles)} candles are too few to find a look-back; give a few thousand")
    table = pd.DataFrame(
        [[getattr(candle, name) for name in CANDLE_COLUMNS] for candle in candles], columns=list(CANDLE_COLUMNS),
        index=pd.DatetimeIndex(pd.to_datetime([candle.ts_ms for candle in candles], unit="ms", utc=True), name="time"),
    )  # fmt: skip

    def asked(start: int, end: int) -> Any:
        # A copy: functions write into what they are given.
        with _on_our_terms():
            return function(table.iloc[start:end].copy())

    def compute(start: int, end: int) -> Computed:
        return computed(asked(start, end), table.index[start:end])

    try:
        answer = asked(0, len(table))
        texts = _texts(answer)
        whole, again = computed(answer, table.index), compute(0, len(table))
    except OperatorError:
        raise
    except Exception as error:
        raise OperatorError(
            f"{options.function} raised {type(error).__name__}: {error}{_where(error, function)} (on {len(table):,} "
            f"candles with the columns {', '.join(CANDLE_COLUMNS)} and a UTC time index)"
        ) from error
    if not whole.names:
        raise OperatorError(f"{options.function} gives no column of numbers, so there is nothing to look at")
    memories = lookback(compute, len(table), tolerance=options.tolerance, progress=progress)
    checks = [*([] if texts is None else [texts]), check_repeatable(whole, again)]
    checks += check_lookback(memories, len(table), live_candles=options.live_candles)
    checks.append(check_lookahead(lookahead(compute, len(table))))
    if not options.features and not only_last(whole.values):
        checks += check_values(whole.names, whole.values, table["close"].to_numpy(dtype=np.float64), totals=False)
    return checks


class Ended(Exception):
    """The user's function, or its module, ended the program."""


@contextlib.contextmanager
def _on_our_terms() -> Iterator[None]:
    """Standard output is our answer, JSON perhaps: what the user's program prints goes to standard error. Nor may it
    end us."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except SystemExit as error:
        raise Ended(f"it called exit({error.code!r})") from error


def _where(error: Exception, function: Callable[[Any], Any]) -> str:
    """Say which line of the function's own file it came from, where that can be told."""
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" in {Path(file).name}, line {lines[-1]}" if file and lines else ""


def load_function(name: str) -> Callable[[Any], Any]:
    """Return the function of `package.module:function` or `path/to/file.py:function`. Raises `OperatorError`."""
    where, _, attribute = name.rpartition(":")
    if not where or not attribute:
        raise OperatorError(
            f"--function {name!r}: write package.module:function, or path/to/file.py:function, with a colon"
        )
    try:
        if where.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(where).stem, where)
            if spec is None or spec.loader is None or not Path(where).exists():
                raise OperatorError(f"--function: there is no file {where}")
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            with _on_our_terms():
                spec.loader.exec_module(module)
        else:
            sys.path.insert(0, str(Path.cwd()))
            with _on_our_terms():
                module = importlib.import_module(where)
    except OperatorError:
        raise
    except Exception as error:
        raise OperatorError(f"--function: {where} cannot be imported: {type(error).__name__}: {error}") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise OperatorError(f"--function: {where} has no function {attribute}")
    function: Callable[[Any], Any] = found
    return function


def computed(answer: Any, index: Any) -> Computed:
    """Return what a feature function gave, one row a candle of `index`.

    It may give a DataFrame (rows are matched by the index; rows it dropped have no value), a Series or a mapping of
    name to value (the features of the last candle). Raises `OperatorError` for anything else.
    """
    import pandas as pd

    if isinstance(answer, pd.Series) and not answer.index.equals(index):
        answer = answer.to_dict()
    elif isinstance(answer, pd.Series):
        answer = answer.to_frame(answer.name or "feature")
    if isinstance(answer, dict):
        row = np.array([_number(value) for value in answer.values()], dtype=np.float64)
        values = np.full((len(index), len(row)), np.nan)
        values[-1] = row
        return Computed(tuple(map(str, answer)), values)
    if not isinstance(answer, pd.DataFrame):
        raise OperatorError(
            f"the feature function returned {type(answer).__name__}: give a DataFrame with one row a candle, or a "
            "dict of the last candle's features"
        )
    twice = answer.columns[answer.columns.duplicated()].unique()
    if len(twice):
        raise OperatorError(
            f"the feature function gives more than one column called {', '.join(map(str, twice[:5]))}: a model cannot "
            "tell them apart; give each a name of its own"
        )
    numbers = answer.drop(columns=_no_numbers(answer)).apply(_numbers)
    if len(numbers) == len(index) and not numbers.index.equals(index):
        numbers = numbers.set_axis(index)  # The index was reset; the rows are those that came.
    elif not numbers.index.equals(index):
        if len(numbers) and not numbers.index.isin(index).any():
            raise OperatorError(
                f"the feature function returned {len(numbers):,} rows for {len(index):,} candles, and their index is "
                "not that of the candles, so it cannot be told which row is which: keep the index, or give one row a "
                "candle"
            )
        numbers = numbers[~numbers.index.duplicated(keep="last")].reindex(index)
    return Computed(tuple(map(str, numbers.columns)), numbers.to_numpy(dtype=np.float64, na_value=np.nan))


def _no_numbers(answer: Any) -> list[Any]:
    """Return the columns of a DataFrame that hold no numbers: text, times."""
    import pandas as pd

    kinds = pd.api.types
    return [
        name for name, column in answer.items()
        if not (kinds.is_numeric_dtype(column) or kinds.is_bool_dtype(column))
        and (column.dtype != object or bool((pd.to_numeric(column, errors="coerce").isna() & column.notna()).any()))
    ]  # fmt: skip


def _numbers(column: Any) -> Any:
    """Return a column of numbers as such; where None stands among them pandas has objects."""
    import pandas as pd

    return pd.to_numeric(column).astype("float64") if column.dtype == object else column.astype("Float64")


def _texts(answer: Any) -> Check | None:
    """Say which columns are passed over; times that came with the candles are no features anyway."""
    import pandas as pd

    if not isinstance(answer, pd.DataFrame) or not answer.columns.is_unique:
        return None
    texts = [str(name) for name in _no_numbers(answer) if not pd.api.types.is_datetime64_any_dtype(answer[name])]
    if not texts:
        return None
    return Check(
        name="no numbers", verdict="WARN", figures={"features": texts},
        sentence=f"{', '.join(texts[:12])}: not numbers, so nothing here looks at them. If the model is given them, "
        "let the function encode them as it is given them.",
    )  # fmt: skip


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _of_trades(options: PreflightOptions) -> tuple[list[Check], list[str]]:
    log = read_trades(
        list(options.trades), model="model", symbol="-", timeframe=options.timeframe, mapping=options.trade_mapping,
        fee_ratio=options.fee_ratio,
    )  # fmt: skip
    trades = sorted(log.trades, key=lambda trade: trade.closed_ms)
    outcomes = [
        Outcome(
            closed_ms=trade.closed_ms, profit_ratio=trade.profit_ratio, exit_kind=exit_kind(trade.exit_reason, {}),
            shadow=trade.shadow, entry_probability=trade.entry_probability, opened_ms=trade.opened_ms,
        )
        for trade in trades
    ]  # fmt: skip
    until_ms = None
    if options.trained_until is not None:
        try:
            day = datetime.strptime(options.trained_until, "%Y-%m-%d").replace(tzinfo=UTC)
        except ValueError:
            raise OperatorError(
                f"--trained-until {options.trained_until!r}: write the last day of the training data as YYYY-MM-DD"
            ) from None
        until_ms = int(day.timestamp() * 1000) + DAY_MS
    return check_model(outcomes, trained_until_ms=until_ms, payoff=options.payoff_ratio), log.findings.sentences()
