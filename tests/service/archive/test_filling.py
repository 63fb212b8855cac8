"""From a store into its archive, and from the archive through the engine again: the same decisions, byte for byte."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from regime.config import DetectorConfig, EngineConfig
from regime.errors import OperatorError
from regime.events import (
    AnyEvent,
    Candle,
    Command,
    Equity,
    Observation,
    Ohlcv,
    Probabilities,
    Recalibrated,
    Trade,
)
from regime.reference import Reference
from regime_service.archive.filling import Archiver, fill
from regime_service.archive.folder import Archive
from regime_service.board import Board
from regime_service.cli import main
from regime_service.metrics import Counters
from regime_service.runners.embedded import EmbeddedRunner
from regime_service.stores.sqlite import SqliteStore

FIVE = 300_000
START = 1_762_041_600_000
CONFIG = EngineConfig(
    clock="event", warmup_observations=3, detectors=[DetectorConfig(kind="ks", options={"window": 30})]
)
TOML = 'clock = "event"\nwarmup_observations = 3\n[[detectors]]\nkind = "ks"\noptions = { window = 30 }\n'
SAMPLE = Reference(["a", "b"], np.random.default_rng(1).standard_normal((400, 2)))


def life() -> Iterator[tuple[list[AnyEvent], dict[str, bytes]]]:
    """What a service hears in two days: two models, gaps (and so Ticks), late ones, every kind of event."""
    rng = np.random.default_rng(2)
    yield [
        Recalibrated(model="m", symbol="BTC", timeframe="5m", version="1", reference_id=SAMPLE.reference_id)
    ], {SAMPLE.reference_id: SAMPLE.to_bytes()}  # fmt: skip
    for at in range(0, 500):
        if at in range(90, 97) or at in (11, 300):
            continue  # the bot was away
        now, events = START + at * FIVE, list[AnyEvent]()
        features: dict[str, float | None] = {"a": float(rng.normal()) + (at > 250), "b": float(rng.normal())}
        if at > 400:
            features["c"] = None if at % 2 else 1.0
        for model in ("m", "other")[: 1 + (at % 3 == 0)]:
            events.append(Observation(
                model=model, symbol="BTC", timeframe="5m", ts_ms=now, features=features,
                candle=Ohlcv(open=1.0, high=2.0, low=0.5, close=1.5, volume=3.0) if at % 2 else None,
                probabilities=Probabilities(long=float(rng.uniform(0.7, 1))),
            ))  # fmt: skip
        if at == 12:
            events.append(Observation(
                model="m", symbol="BTC", timeframe="5m", ts_ms=START + 11 * FIVE, features={"a": 0.0, "b": 0.0}
            ))  # fmt: skip
        if at % 20 == 0:
            events.append(Trade(
                model="m", symbol="BTC", timeframe="5m", trade_id=str(at), side="long", opened_ms=now - FIVE,
                closed_ms=now + FIVE, entry_price=1.0, exit_price=1.0, profit_ratio=float(rng.choice([-0.05, 0.03])),
                entry_probability=0.9,
            ))  # fmt: skip
            events.append(Equity(model="m", ts_ms=now + FIVE, equity=1000.0 - at))
            events.append(
                Candle(symbol="BTC", timeframe="5m", ts_ms=now, open=1.0, high=2.0, low=0.5, close=1.2, volume=1.0)
            )
        if at == 200:
            events.append(Command(id="1", action="set", ts_ms=now, model="m", state="REDUCING", reason="lunch"))
        if at == 210:
            events.append(Command(id="1", action="clear", ts_ms=now, model="m"))
        yield events, {}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    file = folder / "regimegate.db"
    runner = EmbeddedRunner(SqliteStore(file), CONFIG, Board(), Counters(), now_ms=lambda: START)
    runner.start()
    for events, references in life():
        runner.submit(events, references=references).result(30)
    runner.stop()
    (folder / "config.toml").write_text(TOML, "utf-8")
    return file


def filled(store: Path, folder: Path) -> Archive:
    source = SqliteStore(store, read_only=True)
    fill(folder, source)
    source.close()
    return Archive(folder)


def test_every_event_of_the_store_is_in_the_archive_and_the_same_again_adds_nothing(
    store: Path, tmp_path: Path
) -> None:
    archive = filled(store, tmp_path / "a")
    source = SqliteStore(store, read_only=True)
    kinds = {type(row.event).__name__ for row in archive.events()}
    assert [row.seq for row in archive.events()] == [seq for seq, _ in source.events()]
    assert kinds == {"Observation", "Recalibrated", "Trade", "Equity", "Candle", "Command", "Tick"}
    assert sum(row.late for row in archive.events()) == 1
    assert len(list(archive.decisions())) == len(list(source.served())) > 20
    assert fill(tmp_path / "a", source) == 0
    source.close()


def test_a_replay_of_the_archive_makes_the_same_decisions(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(store, tmp_path / "a")
    config = str(store.parent / "config.toml")
    assert main(["replay", "--archive", str(tmp_path / "a"), "--config", config, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    source = SqliteStore(store, read_only=True)
    assert found["identical"] is True and found["first_difference"] is None
    assert (found["events"], found["decisions"]) == (source.last_seq(), len(list(source.served())))
    runner = EmbeddedRunner(SqliteStore(store), CONFIG, Board(), Counters(), now_ms=lambda: START)
    runner.start()
    assert found["digest"] == runner.digest(), "the state, too, is that of the service"
    runner.stop()
    assert main(["replay", "--archive", str(tmp_path / "a"), "--config", config]) == 0
    assert capsys.readouterr().out.startswith("identical: ")


def test_a_replay_that_comes_out_otherwise_says_where_and_in_what(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(store, tmp_path / "a")
    assert main(["replay", "--archive", str(tmp_path / "a")]) == 1
    assert "another configuration" in capsys.readouterr().out
    # One value of one observation is another.
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = sorted((tmp_path / "a/observations/m").rglob("*.parquet"))[0]
    table = pq.read_table(file, partitioning=None)
    values = table.column("a").to_pylist()
    values[100:160] = [50.0] * 60
    pq.write_table(table.set_column(table.column_names.index("a"), "a", pa.array(values)), file)
    assert main(["replay", "--archive", str(tmp_path / "a"), "--config", str(store.parent / "config.toml")]) == 1
    assert "different from event" in capsys.readouterr().out


def test_the_log_status_counts_what_is_there_and_names_the_holes(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, config = str(tmp_path / "a"), str(store.parent / "config.toml")
    arguments = ["log", "status", "--store", str(store), "--folder", folder, "--config", config]
    assert main([*arguments, "--json"]) == 0
    found = {stream["model"]: stream for stream in json.loads(capsys.readouterr().out)}
    assert (found["m"]["expected"], found["m"]["present"]) == (500, 500 - 7 - 1)
    first, second = found["m"]["days"]
    assert (first["expected"], first["present"], first["late"], first["missing"]) == (288, 281, 1, 7)
    assert first["holes"] == [{"candles": 7, "first_ms": START + 90 * FIVE, "last_ms": START + 96 * FIVE}]
    assert (second["expected"], second["missing"]) == (212, 1)
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "m BTC 5m: 492 of 500 candles, 98.40%" in said
    assert "2025-11-02    281 of 288    1 late (stored, not judged)  missing 7: 07:30 to 08:00 (7)" in said
    assert main([*arguments, "--days", "1"]) == 0
    assert "m BTC 5m: 211 of 212 candles" in capsys.readouterr().out


def test_on_a_wall_clock_a_bot_that_died_is_incomplete_ever_since(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: (START + 600 * FIVE + 1000) * 1_000_000)
    assert main(["log", "status", "--store", str(store), "--folder", str(tmp_path / "a")]) == 0
    assert "m BTC 5m: 492 of 600 candles" in capsys.readouterr().out


def test_two_do_not_fill_one_archive(store: Path, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "a").mkdir()
    with (tmp_path / "a/archive.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OperatorError, match="another program fills"):
            filled(store, tmp_path / "a")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["log", "archive", "--store", "nothing.db"], "does not exist"),
        (["log", "status", "--store", "nothing.db"], "does not exist"),
        (["log", "status", "--store", "nothing.db", "--days", "0"], "at least 1"),
        (["log", "archive", "--store", "postgresql://u@h/d"], "say where the archive is"),
        (["log", "status", "--store", "/"], "that is no file"),
        (["replay", "--archive", "nowhere"], "no archive, or an empty one"),
        (["replay", "--archive", "/dev/null"], "no archive, or an empty one"),
        (["replay"], "--out"),
    ],
)
def test_wrong_usage_is_one_sentence(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_the_archiver_keeps_up_with_a_store_and_says_once_what_is_wrong(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder", "utf-8")
    working = Archiver(str(store), tmp_path / "a", every_s=0.1)
    failing = Archiver(str(store), blocked, every_s=0.1)
    for archiver in (working, failing):
        archiver.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not ((tmp_path / "a/archive.json").exists() and caplog.records):
        time.sleep(0.05)
    time.sleep(0.5)
    for archiver in (working, failing):
        archiver.stop()
    assert len(list(Archive(tmp_path / "a").events())) == SqliteStore(store, read_only=True).last_seq()
    assert [record.getMessage() for record in caplog.records if "cannot be written" in record.getMessage()] != []
    assert len(caplog.records) == 1
