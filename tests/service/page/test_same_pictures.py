"""The same bot, once live and once as files: the page and the report show the very same pictures."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from regime.config import EngineConfig, from_mapping
from regime.events import StreamKey
from regime_service.report import ReplayOptions, run_replay
from regime_service.report import run as replaying

STEP_MS = 300_000
T0_MS = 1_762_000_200_000
ROWS = 1_600
"""As many candles as make the page show every fourth one of a week: the report thins out alike."""
KEY = StreamKey("m", "BTC/USDT:USDT", "5m")
CONFIG: dict[str, Any] = {
    "clock": "event", "preset": "seed-rules", "warmup_observations": 20, "detectors": [{"kind": "calibrated"}],
}  # fmt: skip


def write_rows(file: Path, rows: range, rng: np.random.Generator, *, shifted: range = range(0)) -> None:
    lines = ["ts_ms,open,high,low,close,volume,prob_long,prob_short,calm,moved,spread"]
    for i in rows:
        price = 60_000 + 400 * np.sin(i / 9) + 3 * i
        features = (rng.normal(), rng.normal() + 3.0 * (i in shifted), rng.normal() * (1 + 2 * (i in shifted)))
        claims = (0.5 + 0.4 * rng.random(), 0.5 + 0.4 * rng.random())
        values = (price, price + 40, price - 40, price + 5, 7.0, *claims, *features)
        lines.append(f"{T0_MS + i * STEP_MS}," + ",".join(f"{value:.6f}" for value in values))
    file.write_text("\n".join(lines) + "\n")


def write_trades(file: Path, rng: np.random.Generator) -> None:
    lines = ["side,entry_time,exit_time,entry_price,exit_price,entry_prob,exit_reason"]
    for i in range(140):
        opened_ms = T0_MS + (400 + 7 * i) * STEP_MS
        won = rng.random() < (0.65 if i < 70 else 0.3)
        lines.append(
            f"{'LONG' if i % 2 else 'SHORT'},{opened_ms},{opened_ms + 2 * STEP_MS},100,"
            f"{100 + (1 if i % 2 else -1) * (1.2 if won else -1.0)},{0.8 + 0.19 * rng.random():.4f},ML Exit"
        )
    file.write_text("\n".join(lines) + "\n")


@pytest.fixture
def options(tmp_path: Path) -> ReplayOptions:
    rng = np.random.default_rng(7)
    write_rows(tmp_path / "train.csv", range(-3000, 0), rng)
    write_rows(tmp_path / "live.csv", range(ROWS), rng, shifted=range(900, ROWS))
    write_trades(tmp_path / "trades.csv", rng)
    return ReplayOptions(
        reference=str(tmp_path / "train.csv"), features=(str(tmp_path / "live.csv"),),
        trades=(str(tmp_path / "trades.csv"),), candles=None, model=KEY.model, symbol=KEY.symbol,
        timeframe=KEY.timeframe, config=from_mapping(CONFIG, EngineConfig), out=tmp_path / "report", json=True,
    )  # fmt: skip


def pictures(html: str) -> dict[str, str]:
    """The pictures of a page by the beginning of what they say to who cannot see them."""
    found = re.findall(r'(<svg class="picture"[^>]*aria-label="([^"]*)">.*?</svg>)', html, flags=re.S)
    return {re.split(r"[ ,:;(]", label)[0]: svg for svg, label in found}


def test_the_page_and_the_report_show_the_same_pictures(make_site: Callable[..., Any], options: ReplayOptions) -> None:
    run_replay(options, Console(file=io.StringIO()))
    report = pictures((options.out / "report.html").read_text("utf-8"))

    with replaying._bars(Console(), quiet=True) as bars:
        inputs = replaying._read(options, bars)
    assert inputs.reference is not None
    site = make_site(**CONFIG)
    kept = {inputs.reference.reference_id: inputs.reference.to_bytes()}
    events = replaying._events(inputs, KEY)
    for start in range(0, len(events), 100):
        site._runner.run(site.service.ingest(events[start : start + 100], references=None if start else kept))
    page = pictures(site.stream(candles="2016").text)

    # The one that is the report's own is that of a detector over time.
    assert [*page, "A"] == sorted(report, key=[*page, "A"].index)
    for name in ("Price", "States", "Entry", "Distance", "Claimed", "Win"):
        assert page[name] == report[name], name
    # What the guard is worth is a plain sum of what is remembered there, and an account here: drawn alike, of others.
    signs = [re.findall(r'<(?:path|text) class="[^"]*"', shown["What"]) for shown in (page, report)]
    assert set(signs[0]) <= set(signs[1]) == {*signs[0], '<path class="refused"'}
    # And they show what happened, for two empty pictures would be the same as well.
    assert 'class="band REDUCING"' in page["States"] and page["Entry"].count("H") > 8
    assert "change began about here" in page["Distance"] and "● moved" in page["Distance"]
    assert page["Claimed"].count('class="mark') >= 6 and 'class="band90"' in page["Win"]


def test_a_change_that_is_over_is_still_marked_in_the_report(options: ReplayOptions) -> None:
    """The page shows what rings now. A report is of a time: what rang in it last is marked, though all is calm."""
    write_rows(Path(options.features[0]), range(ROWS), np.random.default_rng(8), shifted=range(400, 460))
    told = run_replay(replace(options, trades=None), Console(file=io.StringIO()))
    assert told["drift"][0]["over_limit"] > 0 and told["last_answer"]["sides"]["long"]["entry"] == 0.8, (
        "it rang, and is calm"
    )
    heat = pictures((options.out / "report.html").read_text("utf-8"))["Distance"]
    assert "● moved" in heat and "change began about here" in heat
    (said,) = [p["sentence"] for p in told["pictures"] if p["name"] == "detector-calibrated"]
    found = re.search(r"The last change it saw began about .* \(between ([-\d]+ [:\d]+) and ([-\d]+ [:\d]+)\)", said)
    assert found is not None
    low_ms, high_ms = (int(np.datetime64(moment.replace(" ", "T"), "ms").astype(int)) for moment in found.groups())
    assert low_ms <= T0_MS + 400 * STEP_MS <= high_ms, said
