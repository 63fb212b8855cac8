"""A real bot's log, pushed over HTTP and replayed from its files, comes to the same state, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from regime.config import EngineConfig
from regime.events import Observation, Recalibrated, StreamKey
from regime.fleet import Fleet
from regime.replay import replay
from regime_service.logs import read_features, read_reference
from regime_service.testing import Served

KEY = StreamKey("bot", "BTC/USDT:USDT", "5m")
STREAM = {"model": KEY.model, "symbol": KEY.symbol, "timeframe": KEY.timeframe}


def observations(shared: Path) -> list[Observation]:
    log = read_features([str(shared / "data" / "production_features")], **STREAM)
    assert len(log.observations) == 117 + 240 + 288
    return log.observations


def body(events: list[Observation]) -> list[dict[str, Any]]:
    return [{k: v for k, v in msgspec.to_builtins(event).items() if k != "kind"} for event in events]


def put_reference(served: Served, shared: Path) -> str:
    raw = (shared / "data" / "reference_features_20251026_20251101.csv").read_bytes()
    answer = served.put("/v1/models/bot/references/v1?symbol=BTC/USDT:USDT&timeframe=5m", raw, "text/csv")
    assert answer.status == 200, answer.body
    return str(answer.json()["reference_id"])


def digest(served: Served) -> str:
    return str(served.get("/v1/explain", **STREAM).json()["digest"])


@pytest.fixture(scope="module")
def offline(request: pytest.FixtureRequest) -> str:
    """Digest of the replay from the files."""
    shared: Path = request.getfixturevalue("shared")
    reference, _ = read_reference(str(shared / "data" / "reference_features_20251026_20251101.csv"))
    fleet = Fleet(EngineConfig(clock="event"), {reference.reference_id: reference}.__getitem__)
    first = Recalibrated(
        model="bot", version="v1", reference_id=reference.reference_id, symbol=KEY.symbol, timeframe="5m"
    )
    for _ in replay([first, *observations(shared)], fleet):
        pass
    return fleet.engine(KEY).digest()


@pytest.mark.parametrize("size", [1, 100])
def test_pushed_rows_give_the_digest_of_the_replay(
    serve: Callable[..., Served], shared: Path, offline: str, size: int
) -> None:
    served = serve()
    put_reference(served, shared)
    rows = body(observations(shared))
    for at in range(0, len(rows), size):
        answer = served.post("/v1/observations", rows[at : at + size])
        assert answer.status == 200, answer.body
    assert digest(served) == offline
    assert served.stop() == 0


def test_killed_half_way_and_started_again_gives_the_same_digest(
    serve: Callable[..., Served], shared: Path, offline: str
) -> None:
    served = serve()
    put_reference(served, shared)
    rows = body(observations(shared))
    for at in range(0, 300, 20):
        assert served.post("/v1/observations", rows[at : at + 20]).status == 200
    before = digest(served)
    served.kill()
    again = serve()
    assert digest(again) == before, "what was acknowledged is there, and nothing else"
    # A bot that does not know what got through sends it all again; what is known is a duplicate.
    answer = again.post("/v1/observations", rows).json()
    assert (answer["accepted"], answer["duplicates"]) == (len(rows) - 300, 300)
    assert digest(again) == offline
    assert again.stop() == 0


def test_a_bad_batch_changes_nothing(serve: Callable[..., Served], shared: Path) -> None:
    served = serve()
    rows = body(observations(shared)[:60])
    served.post("/v1/observations", rows[:50])
    before = digest(served)
    rows[55]["features"]["rsi"] = "high"
    refused = served.post("/v1/observations", rows)
    assert refused.status == 422
    assert refused.json()["errors"][0]["path"] == "[55].features.rsi"
    assert digest(served) == before
