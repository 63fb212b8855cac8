"""The README's lines that read the feature log, run as they stand: pandas, polars and duckdb see all of it alike."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from regime.config import EngineConfig
from regime.events import AnyEvent, Equity, Observation, Ohlcv, Probabilities, Taken, Trade
from regime.fleet import Fleet
from regime.replay import replay
from regime_service.archive.folder import Archive

DAY, FIVE, START = 86_400_000, 300_000, 1_762_041_600_000
MODEL = "my-model"
READERS = ("pd", "pl", "duckdb")


def observation(symbol: str, at: int, features: dict[str, float | None], **parts: Any) -> Observation:
    return Observation(
        model=MODEL, symbol=symbol, timeframe="5m", ts_ms=START + at * FIVE, features=features, **parts
    )  # fmt: skip


def life() -> list[AnyEvent]:
    """Three days of three markets whose features are not the same, grow in mid-day, and are left out for a day."""
    rng, events = np.random.default_rng(5), list[AnyEvent]()
    for at in range(0, 3 * 288, 4):
        day, features = at // 288, dict[str, float | None]()
        features["rsi"] = float(rng.normal()) if at % 5 else None
        if day != 1:
            features["not_on_the_second_day"] = float(rng.normal())
        if at > 400:
            features["close"] = float(rng.normal())  # a name of ours
            features["grown é, in mid-day"] = None if at % 3 else 1e-300
        claims = Probabilities(long=float(rng.uniform())) if at % 8 else None
        candle = Ohlcv(open=1.0, high=2.0, low=0.5, close=1.5, volume=float(at)) if at % 12 == 0 else None
        taken = Taken(long=bool(at % 16)) if at % 8 else None
        events.append(observation("BTC/USDT:USDT", at, features, probabilities=claims, candle=candle, taken=taken))
        if day:
            events.append(observation("ETH/USDT", at, {"only_here": float(at), "rsi": 1.0}))
        if at % 100 == 0:
            events.append(observation("[*]=x?", at, {f"one_of_many_{at}": 1.0}))
            events.append(observation("BTC/USDT:USDT", at - 250, {"rsi": 0.5, "late": 1.0}))
            events.append(Equity(model=MODEL, ts_ms=START + at * FIVE, equity=1000.0 - at))
            events.append(Trade(
                model=MODEL, symbol="BTC/USDT:USDT", timeframe="5m", trade_id=str(at), side="long",
                opened_ms=START + at * FIVE, closed_ms=START + at * FIVE + 1, entry_price=1.0, exit_price=1.1,
                profit_ratio=0.1, entry_probability=0.9 if at % 200 else None,
            ))  # fmt: skip
    return events


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[AnyEvent]]:
    folder = tmp_path_factory.mktemp("service")
    fleet = Fleet(EngineConfig(clock="event", warmup_observations=1, detectors=[]), {}.__getitem__)
    log, served = list[tuple[int, int, AnyEvent]](), []
    for played in replay(life(), fleet):
        log.append((len(log) + 1, START + len(log), played.event))
        served += [(len(log) * 10 + i, len(log), step.step.decision) for i, step in enumerate(played.steps)]
    archive = Archive(folder / "regimegate.archive")
    for begin in range(0, len(log), 37):
        batch = log[begin : begin + 37]
        seqs = {seq for seq, _, _ in batch}
        archive.append(batch, [each for each in served if each[1] in seqs])
    return folder, [event for _, _, event in log]


@pytest.fixture
def lines(repo: Path, need: Callable[[object, str], None]) -> dict[str, str]:
    need(find_spec("polars") and find_spec("duckdb"), "polars or duckdb is not installed: make setup-dev")
    readme = (repo / "README.md").read_text("utf-8")
    shown = re.findall(r"^(?:pd|pl|duckdb)\.\w+\(.*\)$", readme, re.MULTILINE)
    found = {line.partition(".")[0]: line for line in shown}
    assert tuple(found) == READERS
    return found


def read(line: str) -> pd.DataFrame:
    """What a line of the README gives, as pandas has it: plain values, NaN and null told apart, sorted."""
    import duckdb
    import polars as pl

    found = eval(line, {"pd": pd, "pl": pl, "duckdb": duckdb})
    if isinstance(found, pl.DataFrame):
        for name in ("candle_time_utc", "recorded_time_utc"):
            if name in found.columns:
                assert found.schema[name] == pl.Datetime("ms", "UTC")
        found = found.to_pandas(use_pyarrow_extension_array=True)
    elif not isinstance(found, pd.DataFrame):
        found = found.to_arrow_table().to_pandas(types_mapper=pd.ArrowDtype)
    return found.sort_values("row" if "row" in found.columns else "seq", ignore_index=True)


@pytest.mark.parametrize("reader", READERS)
def test_every_observation_is_there_with_every_value_of_it(
    archived: tuple[Path, list[AnyEvent]], lines: dict[str, str], monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    folder, log = archived
    monkeypatch.chdir(folder)
    table = read(lines[reader])
    sent = {seq: event for seq, event in enumerate(log, 1) if isinstance(event, Observation)}
    assert table["seq"].tolist() == list(sent)
    names = dict.fromkeys(name for event in sent.values() for name in event.features)
    columns = {name: f"feature:{name}" if name in ("close", "late") else name for name in names}
    assert set(columns.values()) <= set(table.columns) and len(names) > 12
    for name, column in columns.items():
        mine = np.array([np.nan if (v := e.features.get(name)) is None else v for e in sent.values()])
        np.testing.assert_array_equal(table[column].to_numpy(dtype=float, na_value=np.nan), mine, err_msg=name)
    for at, name in ((0, "candle_time_utc"), (1, "recorded_time_utc")):
        assert table[name].dt.tz is not None
        told = table[name].astype("datetime64[ms, UTC]").astype("int64").tolist()
        mine_ms = [(event.ts_ms, START + seq - 1)[at] for seq, event in sent.items()]
        assert told == mine_ms, "the same instant, whatever the zone of this machine"
    assert table["late"].sum() == 9
    assert table["symbol"].tolist() == [event.symbol for event in sent.values()]
    claimed = [event.probabilities.long if event.probabilities else np.nan for event in sent.values()]
    np.testing.assert_array_equal(table["probability_long"].to_numpy(dtype=float, na_value=np.nan), np.array(claimed))
    volume = [event.candle.volume if event.candle else np.nan for event in sent.values()]
    np.testing.assert_array_equal(table["volume"].to_numpy(dtype=float, na_value=np.nan), np.array(volume))
    taken = [event.taken.long if event.taken else None for event in sent.values()]
    assert [None if pd.isna(v) else bool(v) for v in table["taken_long"]] == taken


@pytest.mark.parametrize("reader", READERS[1:])
def test_a_value_that_was_missing_is_told_from_one_that_was_not_sent(
    archived: tuple[Path, list[AnyEvent]], lines: dict[str, str], monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    import pyarrow as pa

    monkeypatch.chdir(archived[0])
    rsi = pa.chunked_array([pa.array(read(lines[reader])["rsi"].array)])
    sent = [event for event in archived[1] if isinstance(event, Observation)]
    assert rsi.is_valid().to_pylist() == ["rsi" in event.features for event in sent]


def test_kinds_and_types_of_columns_are_the_same_to_all_three(
    archived: tuple[Path, list[AnyEvent]], lines: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(archived[0])
    for place in (f"observations/{MODEL}", f"trades/{MODEL}", f"equity/{MODEL}", "decisions", "ticks"):
        tables = [read(line.replace(f"observations/{MODEL}", place)) for line in lines.values()]
        assert len(tables[0]) and len({len(table) for table in tables}) == 1, place
        kinds = [{name: _kind(table[name]) for name in table.columns} for table in tables]
        for name in [name for name in kinds[0] if tables[0][name].isna().any() and kinds[1][name] == "count"]:
            kinds[0][name] = "count"  # pandas has no whole numbers beside nothing
        assert kinds[0] == kinds[1] == kinds[2], place
        order = [list(table.columns) for table in tables]
        assert order[0] == order[1] == order[2], place


def _kind(column: pd.Series) -> str:
    name = str(column.dtype).lower()
    if "timestamp" in name or "datetime" in name:
        assert column.dt.tz is not None
        return "instant"
    # pandas holds a column of True, False and nothing as objects.
    kinds = {"double": "number", "float": "number", "str": "text", "bool": "flag", "object": "flag", "int": "count"}
    return next(kind for part, kind in kinds.items() if part in name)
