"""`regime sweep --archive`: the same table as over the logs that the archive was made of, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from regime.config import DetectorConfig, EngineConfig, ModelConfig
from regime.decision import decision_bytes
from regime.engine import find_limits
from regime.errors import CorruptionError
from regime.events import AnyEvent, Command, Observation, Recalibrated, StreamKey, Trade
from regime.fleet import Fleet
from regime.replay import merged, replay
from regime_service.archive.filling import fill
from regime_service.archive.history import ArchivedHistory, ArchiveOptions
from regime_service.board import Board
from regime_service.cli import main
from regime_service.logs import LogMapping, TradeMapping, read_candles, read_features, read_reference, read_trades
from regime_service.metrics import Counters
from regime_service.runners.embedded import EmbeddedRunner, name_limits
from regime_service.stores.sqlite import SqliteStore

FIVE, START = 300_000, 1_762_041_600_000
KEY = StreamKey("model", "BTC/USDT:USDT", "5m")
TOML = (
    'clock = "event"\nwarmup_observations = 3\nfalse_alarm_days = 2\n'
    '[[detectors]]\nkind = "ks"\noptions = { window = 30 }\n[[detectors]]\nkind = "calibrated"\n'
    "[models.model]\nentry = 0.8\n"
)
CONFIG = EngineConfig(
    clock="event", warmup_observations=3, false_alarm_days=2,
    detectors=[DetectorConfig(kind="ks", options={"window": 30}), DetectorConfig(kind="calibrated")],
    models={"model": ModelConfig(entry=0.8)},
)  # fmt: skip
GRID = [
    "preset=default,seed-rules", "stale_after=2,200", "entry=0.8,0.9", "false_alarm_days=2,0.5",
]  # fmt: skip


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bot's own files: four days with a change of the market, holes, and trades that go bad."""
    rng, folder = np.random.default_rng(4), tmp_path_factory.mktemp("logs")
    count = 4 * 288
    at = np.delete(np.arange(count), [*range(300, 320), *range(700, 705)])
    times = pd.to_datetime((START + at * FIVE), unit="ms", utc=True)
    broken = at > 800
    close = 100 * np.exp(np.cumsum(rng.normal(0, 1e-3, len(at))))
    pd.DataFrame({
        "timestamp": times, "a": rng.normal(size=len(at)) + broken, "b": rng.normal(size=len(at)),
        "prob_long": rng.uniform(0.7, 1, len(at)),
    }).to_csv(folder / "features.csv", index=False)  # fmt: skip
    opened = START + np.sort(rng.choice(count - 20, 150, replace=False)) * FIVE + 1000
    won = rng.random(150) < np.where(opened > START + 800 * FIVE, 0.25, 0.6)
    pd.DataFrame({
        "side": "long", "entry_time": pd.to_datetime(opened, unit="ms", utc=True),
        "exit_time": pd.to_datetime(opened + 7 * FIVE, unit="ms", utc=True), "entry_price": 100.0,
        "exit_price": np.where(won, 101.0, 99.0), "entry_prob": rng.uniform(0.8, 1, 150),
    }).to_csv(folder / "trades.csv", index=False)  # fmt: skip
    pd.DataFrame({
        "timestamp": times, "open": close, "high": close * 1.001, "low": close * 0.999, "close": close, "volume": 1.0,
    }).to_csv(folder / "candles.csv", index=False)  # fmt: skip
    before = pd.to_datetime(START - np.arange(1500, 0, -1) * FIVE, unit="ms", utc=True)
    pd.DataFrame({"timestamp": before, "a": rng.normal(size=1500), "b": rng.normal(size=1500)}).to_csv(
        folder / "train.csv", index=False
    )
    (folder / "config.toml").write_text(TOML, "utf-8")
    return folder


def served(logs: Path, folder: Path, order: Callable[[list[AnyEvent]], list[AnyEvent]], config: EngineConfig) -> Path:
    """The archive of a service that was sent those logs."""
    of = dict(zip(("model", "symbol", "timeframe"), KEY, strict=True))
    reference, _ = read_reference(str(logs / "train.csv"), mapping=LogMapping(), timeframe="5m")
    features = read_features([str(logs / "features.csv")], mapping=LogMapping(), **of).observations
    trades = read_trades(
        [str(logs / "trades.csv")], mapping=TradeMapping(), fee_ratio=config.model("model").fee_ratio, **of
    )
    market = {name: of[name] for name in ("symbol", "timeframe")}
    candles = read_candles([str(logs / "candles.csv")], mapping=LogMapping(), **market).candles
    runner = EmbeddedRunner(SqliteStore(folder / "s.db"), config, Board(), Counters(), now_ms=lambda: START)
    runner.start()
    first = Recalibrated(**of, version="v1", reference_id=reference.reference_id)
    first, limits = name_limits(first, find_limits(first, reference, config))
    runner.submit([first], references={reference.reference_id: reference.to_bytes(), **limits}).result(120)
    events = order(merged(candles, trades.trades, features))
    for begin in range(0, len(events), 100):
        runner.submit(events[begin : begin + 100]).result(120)
    runner.stop()
    source = SqliteStore(folder / "s.db", read_only=True)
    fill(folder / "archive", source)
    source.close()
    return folder / "archive"


@pytest.fixture(scope="module")
def archive(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served(logs, tmp_path_factory.mktemp("service"), lambda events: events, CONFIG)


def options(archive: Path, config: EngineConfig = CONFIG, **changes: Any) -> ArchiveOptions:
    plain = ArchiveOptions(
        folder=str(archive), model=None, symbol=None, timeframe=None, config=config, out=archive, what_if="paper"
    )
    return replace(plain, **changes)


def swept(arguments: list[str], out: Path, logs: Path) -> dict[str, Any]:
    given = ["sweep", *arguments, "--config", str(logs / "config.toml"), "--out", str(out), "--jobs", "2"]
    assert main([*given, "--grid", *GRID]) == 0
    found: dict[str, Any] = json.loads((out / "sweep.json").read_text("utf-8"))
    return found


def test_a_sweep_over_an_archive_gives_the_table_of_the_logs_it_was_made_of(
    logs: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [f"--{name}={logs / file}" for name, file in (
        ("features", "features.csv"), ("trades", "trades.csv"), ("candles", "candles.csv"), ("reference", "train.csv"),
    )]  # fmt: skip
    by_logs = swept(files, tmp_path / "logs", logs)
    said = capsys.readouterr().out.partition("Report: ")[0]
    by_archive = swept(["--archive", str(archive)], tmp_path / "archive", logs)
    assert by_archive.pop("notes") != [] == by_logs.pop("notes")
    assert by_archive == by_logs
    assert capsys.readouterr().out.startswith(said.rstrip())
    refused = {json.dumps(row["choice"]): row["refused"] for row in by_logs["rows"]}
    assert len(refused) == 16 and len(set(refused.values())) >= 5, "or all would be the same whatever the grid does"


def test_the_order_of_posting_does_not_matter_to_a_sweep(logs: Path, archive: Path, tmp_path: Path) -> None:
    def trades_last(events: list[AnyEvent]) -> list[AnyEvent]:
        return sorted(events, key=lambda event: isinstance(event, Trade))

    other = served(logs, tmp_path, trades_last, CONFIG)
    assert ArchivedHistory(options(other)).verdicts(CONFIG) == ArchivedHistory(options(archive)).verdicts(CONFIG)


def test_under_the_configuration_of_the_day_the_decisions_are_those_of_the_day(
    archive: Path,
) -> None:
    history = ArchivedHistory(options(archive))
    then = history._archive.served(KEY)
    # Every trade as it stands, as it was posted.
    fleet = Fleet(CONFIG, history._reference, history._calibration)
    made = [s.step.decision for p in replay(history._fed(fleet), fleet) for s in p.steps if s.step.changed]
    assert [decision_bytes(decision) for decision in made] == then and len(then) > 10


def test_an_operators_word_stands_where_it_was_said(logs: Path, tmp_path: Path) -> None:
    def halted(events: list[AnyEvent]) -> list[AnyEvent]:
        half = len(events) // 2
        # Its own time is the machine's: years after the candles.
        word = Command(id="1", action="set", ts_ms=START + 10**11, model="model", state="HALTED", reason="lunch")
        return [*events[:half], word, *events[half:]]

    history = ArchivedHistory(options(served(logs, tmp_path, halted, CONFIG)))
    found = history.verdicts(CONFIG)
    first = next(i for i, verdict in enumerate(found) if "operator" in " ".join(verdict.codes))
    assert 30 < first < 120 and all(verdict.refused for verdict in found[first:])


def test_limits_of_another_budget_are_found_anew(archive: Path) -> None:
    history = ArchivedHistory(options(archive))
    other = msgspec.structs.replace(CONFIG, false_alarm_days=0.5)
    limits = []
    for config in (CONFIG, other):
        fleet = Fleet(config, history._reference, history._calibration)
        found = [played.event for played in replay(history._fed(fleet), fleet)]
        limits.append(fleet.engine(KEY).watches[0].within_budget())
        assert [event.revision for event in found if isinstance(event, Recalibrated)] == [0, 1][: 1 + (config is other)]
    assert limits == [True, True]


@pytest.mark.parametrize(("mode", "said"), [("enforce", True), ("shadow", False)])
def test_what_was_refused_when_it_was_recorded_is_said(logs: Path, tmp_path: Path, mode: str, said: bool) -> None:
    config = msgspec.structs.replace(CONFIG, mode=mode)
    notes = ArchivedHistory(options(served(logs, tmp_path, lambda e: e, config))).notes
    assert [("paused long for" in note, "counts for no configuration" in note) for note in notes] == [
        (True, True)
    ] * said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--archive", "nowhere"], "nowhere is no archive, or an empty one"),
        (["--archive", "{archive}", "--trades", "t.csv", "--features", "f"], "takes no --features, --trades: leave"),
        (["--archive", "{archive}", "--model", "nobody"], "no real trade of nobody; it has some of model BTC"),
        (["--archive", "{archive}", "--timeframe", "1h"], "Mind --model"),
        (["--archive", "{two}"], "real trades of 2 streams: model BTC/USDT:USDT 5m (150); other ETH 1h (1). Say which"),
        (["--archive", "{none}"], "no real trade in the archive"),
        (["--archive", "{archive}", "--jobs", "-1"], "--jobs"),
        ([], "--archive DIR"),
    ],
)
def test_what_cannot_be_swept_is_one_sentence(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    from regime_service.archive.folder import Archive

    shutil.copytree(archive, tmp_path / "two")
    two = Archive(tmp_path / "two")
    trade = Trade(
        model="other", symbol="ETH", timeframe="1h", trade_id="1", side="long", opened_ms=START, closed_ms=START + 1,
        entry_price=1.0, exit_price=1.0, profit_ratio=0.0,
    )  # fmt: skip
    two.append([(two.state.last_seq + 1, START, trade)], [])
    seen = Observation(model="m", symbol="s", timeframe="5m", ts_ms=START, features={"a": 1.0})
    paper = msgspec.structs.replace(trade, shadow=True)
    Archive(tmp_path / "none").append([(1, START, seen), (2, START, paper)], [])
    places = {"archive": archive, "two": tmp_path / "two", "none": tmp_path / "none"}
    given = [argument.format(**places) for argument in arguments]
    assert main(["sweep", *given, "--grid", "preset=default", "--out", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_part_that_is_missing_is_named_before_anything_is_played(archive: Path, tmp_path: Path) -> None:
    shutil.copytree(archive, tmp_path / "a")
    sorted((tmp_path / "a/candles").rglob("*.parquet"))[1].unlink()
    with pytest.raises(CorruptionError, match=r"event \d+ is missing in the archive"):
        ArchivedHistory(options(tmp_path / "a"))


def test_a_replay_of_an_archive_passes_over_no_flag(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--archive", str(archive), "--model", "m", "--out", "x", "--what-if", "paper"]) == 2
    assert "takes no --model, --out, --what-if" in capsys.readouterr().err
