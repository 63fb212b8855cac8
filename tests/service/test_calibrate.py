"""`regime calibrate` as a command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from regime.calibration import Calibration
from regime_service.cli import main


def write(folder: Path, rows: int) -> Path:
    values = np.random.default_rng(5).standard_normal((rows, 3))
    lines = ["ts_ms,a,b,dead"]
    lines += [
        f"{1_700_000_000_000 // 300_000 * 300_000 + i * 300_000},{a},{b},1.0" for i, (a, b, _) in enumerate(values)
    ]
    file = folder / "train.csv"
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return file


def test_it_says_what_was_found_and_writes_limits_that_can_be_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "limits.json"
    code = main(["calibrate", str(write(tmp_path, 6000)), "--days", "1", "--out", str(out)])
    said = " ".join(capsys.readouterr().out.split())
    assert code == 0, said
    assert "You asked for at most one false alarm in 1 days" in said
    assert "one false alarm in 576 candles (2 days)" in said, "half of the budget is for the features"
    assert "1 dead" in said
    (plain,) = json.loads(out.read_text("utf-8")).values()
    limits = Calibration.from_json(json.dumps(plain))
    assert limits.rows_per_false_alarm == 576
    assert limits.limit_recovery < limits.limit_warning < limits.limit_alarm


def test_a_reference_that_is_too_short_is_a_no(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", str(write(tmp_path, 1500)), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)["features.calibrated"]
    assert report["claim"] == "none"
    assert any("cannot be promised" in warning for warning in report["warnings"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--days", "0"], "--days"), (["--timeframe", "5x"], "timeframe"), (["--preset", "sed"], "preset")],
)
def test_wrong_usage_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    assert main(["calibrate", str(write(tmp_path, 100)), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_the_real_reference_is_said_to_be_too_short_for_30_days(
    shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", str(shared / "data" / "reference_features_20251026_20251101.csv")]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "the reference covers 5.9 days" in said
    assert "cannot be promised" in said
    assert "11 dead" in said
