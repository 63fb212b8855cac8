"""The tables of the archive: appended to, cut off in the middle, grown, read back in the order of the log."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime import codec
from regime.config import EngineConfig
from regime.errors import CorruptionError, OperatorError
from regime.events import AnyEvent, Candle, Command, Equity, Observation, Recalibrated, Tick, Trade
from regime.fleet import Fleet
from regime.replay import replay
from regime_service.archive.folder import EVERYTHING, Archive, day_of, folder_name, place_of

DAY = 86_400_000
START = 1_762_041_600_000
FIVE = 300_000
SYMBOL = "BTC/USDT:USDT"


def obs(at: int, model: str = "m", **features: float | None) -> Observation:
    return Observation(
        model=model, symbol=SYMBOL, timeframe="5m", ts_ms=START + at * FIVE, features=features or {"a": at * 1.5}
    )


def events() -> list[AnyEvent]:
    """Three days of two models: late ones, holes, columns that grow, every kind."""
    made: list[AnyEvent] = []
    for at in range(0, 3 * 288, 7):
        more = {"b": None if at % 5 else 1.0} if at > 400 else {}
        made.append(obs(at, a=at * 0.1, **more))
        if at % 35 == 0:
            made.append(obs(at, "other", c=-0.0, close=1e-300))
            made.append(obs(at - 20, a=1.0) if at > 40 else Equity(model="m", ts_ms=START + at, equity=1.0))
        if at % 77 == 0:
            made.append(Trade(
                model="m", symbol=SYMBOL, timeframe="5m", trade_id=str(at), side="long", opened_ms=START,
                closed_ms=START + at * FIVE, entry_price=1.0, exit_price=1.1, profit_ratio=0.1,
            ))  # fmt: skip
    made += [
        Candle(symbol=SYMBOL, timeframe="5m", ts_ms=START, open=1.0, high=1.0, low=1.0, close=1.0, volume=1.0),
        Tick(model="m", symbol=SYMBOL, timeframe="5m", ts_ms=START + 9 * DAY),
        Command(id="1", action="set", ts_ms=START, model="m", state="HALTED"),
        Recalibrated(model="m", version="1", reference_id="r"),
    ]
    return made


def numbered(made: list[AnyEvent]) -> list[tuple[int, int, AnyEvent]]:
    return [(i + 1, START + i, event) for i, event in enumerate(made)]


def read(folder: Path) -> list[bytes]:
    return [codec.encode(row.event) for row in Archive(folder).events()]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 200), max_size=4))
def test_any_batches_give_the_log_back_in_its_order(tmp_path_factory: pytest.TempPathFactory, cuts: list[int]) -> None:
    folder, rows = tmp_path_factory.mktemp("archive"), numbered(events())
    ends = sorted({min(cut, len(rows)) for cut in cuts} | {len(rows)})
    for start, end in zip([0, *ends], ends, strict=False):
        assert Archive(folder).append(rows[max(start - 3, 0) : end], []) == end - start, (
            "the same again changes nothing"
        )
    assert read(folder) == [codec.encode(event) for _, _, event in rows]


def test_late_ones_are_marked_across_appends(tmp_path: Path) -> None:
    rows = numbered([obs(5), obs(4), obs(6), obs(6, "other"), obs(3, "other"), obs(1)])
    archive = Archive(tmp_path)
    archive.append(rows[:3], [])
    Archive(tmp_path).append(rows[3:], [])
    assert [row.late for row in Archive(tmp_path).events()] == [False, True, False, False, True, True]


@pytest.mark.parametrize("die_at", [1, 3, 6, 9])
def test_an_append_that_was_cut_off_is_made_good_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, die_at: int
) -> None:
    rows = numbered(events())
    Archive(tmp_path).append(rows[:60], [])
    whole, left = Archive._write, die_at

    def dying(self: Archive, *arguments: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        whole(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Archive, "_write", dying)
        with pytest.raises(KeyboardInterrupt):
            Archive(tmp_path).append(rows[60:], [])
    assert len(read(tmp_path)) == 60, "what is beyond its mark is not read"
    Archive(tmp_path).append(rows[60:90], [])
    assert read(tmp_path) == [codec.encode(event) for _, _, event in rows[:90]]
    Archive(tmp_path).append(rows[90:], [])
    assert read(tmp_path) == [codec.encode(event) for _, _, event in rows]
    assert not list(tmp_path.rglob("*.part"))


def test_a_hole_is_refused_and_a_missing_file_is_named(tmp_path: Path) -> None:
    rows = numbered(events())
    archive = Archive(tmp_path)
    archive.append(rows[:10], [])
    with pytest.raises(CorruptionError, match="event 11 is missing before event 12"):
        archive.append(rows[11:], [])
    archive.append(rows, [])
    (tmp_path / "ticks/m" / folder_name(SYMBOL) / "5m" / f"{day_of(START + 9 * DAY)}.parquet").unlink()
    number = next(seq for seq, _, event in rows if isinstance(event, Tick))
    with pytest.raises(CorruptionError, match=f"event {number} is missing"):
        list(archive.events())


def test_a_stream_is_one_wide_table_to_any_reader_whatever_columns_grew(tmp_path: Path) -> None:
    Archive(tmp_path).append(numbered(events()), [])
    table = pd.read_parquet(tmp_path / "observations" / "m")
    mine = [event for event in events() if isinstance(event, Observation) and event.model == "m"]
    assert len(table) == len(mine)
    assert {"a", "b", "candle_time_utc", "recorded_time_utc", "late"} <= set(table.columns)
    assert str(table["candle_time_utc"].dtype) == "datetime64[ms, UTC]"
    assert table.set_index("seq")["a"].sort_index().tolist() == [event.features["a"] for event in mine]
    schemas = {tuple(pq.read_schema(file).names) for file in (tmp_path / "observations" / "m").rglob("*.parquet")}
    assert len(schemas) == 1


def test_all_streams_of_a_model_have_the_same_columns_also_in_an_archive_without_a_list_of_them(tmp_path: Path) -> None:
    def of(symbol: str, at: int, *names: str) -> Observation:
        return Observation(
            model="m", symbol=symbol, timeframe="5m", ts_ms=START + at * FIVE, features=dict.fromkeys(names, 1.0)
        )

    rows = numbered([of("BTC", 0, "a"), of("BTC", 300, "a"), of("ETH", 0, "b", "a"), of("ETH", 1, "c"), obs(1, "n")])
    Archive(tmp_path).append(rows[:3], [])
    state = Archive(tmp_path).state
    assert state.features == {"observations/m": ["a", "b"]}
    raw = msgspec.json.decode((tmp_path / "archive.json").read_bytes())
    (tmp_path / "archive.json").write_bytes(msgspec.json.encode({**raw, "features": {}}))
    Archive(tmp_path).append(rows[3:], [])
    assert Archive(tmp_path).state.features == {"observations/m": ["a", "b", "c"], "observations/n": ["a"]}
    schemas = {tuple(pq.read_schema(file).names[-3:]) for file in (tmp_path / "observations/m").rglob("*.parquet")}
    assert schemas == {("a", "b", "c")}
    assert read(tmp_path) == [codec.encode(event) for _, _, event in rows]


def test_another_store_is_not_mixed_in(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.begin("one")
    archive.append(numbered([obs(1)]), [])
    Archive(tmp_path).begin("one")
    with pytest.raises(OperatorError, match="another store"):
        Archive(tmp_path).begin("two")


def test_references_come_back_as_they_were(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    raw = bytes(range(256)) * 999
    archive.put_reference("id", raw)
    archive.put_reference("id", raw)
    archive.put_reference("empty", b"")
    assert (archive.reference("id"), archive.reference("empty")) == (raw, b"")
    (tmp_path / "references/id").unlink()  # as if it had died between the two files
    assert not archive.has_reference("id")
    archive.put_reference("id", raw)
    assert archive.reference("id") == raw
    with pytest.raises(KeyError):
        archive.reference("nothing")


def test_decisions_stand_beside_the_events_that_made_them(tmp_path: Path) -> None:
    fleet = Fleet(EngineConfig(clock="event", warmup_observations=1, detectors=[]), {}.__getitem__)
    log: list[AnyEvent] = []
    served = []
    for played in replay([obs(at) for at in (0, 1, 2, 300, 301)], fleet):
        log.append(played.event)
        served += [(len(log) * 10, len(log), step.step.decision) for step in played.steps if step.step.changed]
    archive = Archive(tmp_path)
    archive.append(numbered(log)[:2], [d for d in served if d[1] <= 2])
    archive.append(numbered(log)[2:], [d for d in served if d[1] > 2])
    found = list(archive.decisions())
    assert [seq for seq, _ in found] == [seq for _, seq, _ in served] and len(found) >= 3
    table = pd.read_parquet(tmp_path / "decisions").sort_values("seq")
    assert table["long_state"].tolist() == [str(d.sides.long.state) for _, _, d in served]
    assert "stale" in " ".join(table["long_reasons"])


def test_bytes_that_are_no_archive_are_said(tmp_path: Path) -> None:
    Archive(tmp_path).append(numbered([obs(1)]), [])
    file = next((tmp_path / "observations").rglob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(CorruptionError, match=r"parquet cannot be read"):
        list(Archive(tmp_path).events())
    (tmp_path / "archive.json").write_text("{}x", "utf-8")
    with pytest.raises(CorruptionError, match=r"archive\.json cannot be read"):
        Archive(tmp_path)
    (tmp_path / "archive.json").write_text('{"version": 99}', "utf-8")
    with pytest.raises(OperatorError, match="newer version"):
        Archive(tmp_path)


@given(st.text(min_size=1, max_size=128), st.text(min_size=1, max_size=128))
def test_every_label_has_a_folder_of_its_own_inside_the_archive(one: str, other: str) -> None:
    for label in (one, other):
        name = folder_name(label)
        assert 0 < len(name) < 200 and "/" not in name and not name.startswith(".") and name != EVERYTHING
    assert (folder_name(one) == folder_name(other)) == (one == other)


def test_an_event_for_all_streams_of_a_model_has_a_place() -> None:
    assert place_of(Recalibrated(model="m", version="1", reference_id="r")) == "references_in_force/m/(all)/(all)"
