"""`regime calibrate`: the limits a reference supports, the evidence behind them, and how far they can be trusted."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from regime.calibration import Calibration
from regime.config import EngineConfig
from regime.engine import FEATURE_SHARE, SCORE_SHARE, SIGNAL_SHARE, find_limits
from regime.errors import OperatorError
from regime.events import Recalibrated
from regime.timeframe import timeframe_ms
from regime_service.logs import LogMapping, read_reference


def run_calibrate(
    console: Console,
    file: str,
    *,
    config: EngineConfig,
    mapping: LogMapping,
    model: str,
    timeframe: str,
    days: float | None,
    out: str | None,
    as_json: bool,
) -> int:
    """Calibrate on `file`, say what was found, and return 0, or 1 where the promise cannot be made at all."""
    try:
        step_ms = timeframe_ms(timeframe)
    except ValueError as error:
        raise OperatorError(str(error)) from None
    if days is not None:
        if not (math.isfinite(days) and days > 0):
            raise OperatorError(f"--days must be above 0, got {days}")
        config = msgspec.structs.replace(config, false_alarm_days=days)
    reference, findings = read_reference(file, mapping=mapping, timeframe=timeframe)
    event = Recalibrated(
        model=model, version="calibrate", reference_id=reference.reference_id, symbol="-", timeframe=timeframe
    )
    with Progress(
        TextColumn("{task.description}"), BarColumn(), console=console, transient=True,
        disable=as_json or not console.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("calibrating", total=1.0)
        found = find_limits(
            event, reference, config, lambda share, text: bar.update(task, completed=share, description=text)
        )
    if not found:
        raise OperatorError('no detector of the configuration is calibrated; choose kind = "calibrated"')
    if out is not None:
        Path(out).write_text(json.dumps({name: json.loads(c.to_json()) for name, c in found.items()}), "utf-8")
    if as_json:
        console.file.write(json.dumps({name: _plain(limits) for name, limits in found.items()}) + "\n")
    else:
        for sentence in findings.sentences():
            console.print(sentence, markup=False, highlight=False)
        console.print(
            f"You asked for at most one false alarm in {config.false_alarm_days:g} days over {config.streams_expected} "
            f"stream(s). The features get {FEATURE_SHARE:.0%} of that, the model's scores {SCORE_SHARE:.0%}, the rate "
            f"of signals {SIGNAL_SHARE:.0%}.",
            markup=False, highlight=False,
        )  # fmt: skip
        for name, limits in found.items():
            for sentence in sentences(name, limits, step_ms):
                console.print(sentence, markup=False, highlight=False)
    return 0 if all(limits.report.claim != "none" for limits in found.values()) else 1


_CLAIMS = {
    "counted": "the reference is long enough to have counted them",
    "extrapolated": "that is extrapolated from more frequent alarms",
    "none": "the reference is too short, so nothing is promised",
}


def sentences(name: str, limits: Calibration, step_ms: int) -> list[str]:
    """Say in words what a calibration found."""
    report = limits.report

    def days(rows: float) -> str:
        return f"{rows * step_ms / 86_400_000:,.0f} days"

    said = [
        f"{name}: its part of your budget is one false alarm in {limits.rows_per_false_alarm:,.0f} candles "
        f"({days(limits.rows_per_false_alarm)}); the reference holds {report.rows:,} rows."
    ]
    if math.isfinite(limits.limit_alarm):
        said.append(
            f"  Limits: warning {limits.limit_warning:.2f}, alarm {limits.limit_alarm:.2f}, over again under "
            f"{limits.limit_recovery:.2f}. Expected run length {report.run_length:,.0f} candles "
            f"({report.run_length_low:,.0f} to {report.run_length_high:,.0f}); {_CLAIMS[report.claim]}."
        )
    said.append(
        f"  {len(limits.names)} features, about {report.effective_rank:.0f} of them independent; "
        f"{len(report.dead)} dead, {len(report.duplicates)} groups of near-duplicates, "
        f"{len(report.seasonal_features)} with a season."
    )
    said += [f"  {warning}" for warning in report.warnings]
    return said


def _plain(limits: Calibration) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "id": limits.digest, "rows_per_false_alarm": limits.rows_per_false_alarm, "limit_alarm": limits.limit_alarm,
        "limit_warning": limits.limit_warning, "limit_recovery": limits.limit_recovery, **asdict(limits.report),
    }  # fmt: skip
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in plain.items()}
