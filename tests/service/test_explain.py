"""What `/v1/explain` says of an engine, made by `regime_service.app.explain`."""

from __future__ import annotations

import json

import numpy as np

from regime.config import EngineConfig
from regime.engine import Engine
from regime.events import Observation, Recalibrated, StreamKey
from regime.reference import Reference
from regime_service.app import explain

FIVE_MINUTES = 300_000


def test_a_change_says_how_large_it_is() -> None:
    values = np.random.default_rng(1).standard_normal((3000, 4))
    reference = Reference(["f0", "f1", "f2", "f3"], values, ts_ms=np.arange(3000) * FIVE_MINUTES)
    engine = Engine(
        StreamKey("m", "s", "5m"), EngineConfig(clock="event"), {reference.reference_id: reference}.__getitem__
    )
    engine.step(Recalibrated(model="m", version="1", reference_id=reference.reference_id))
    rows = np.random.default_rng(7).standard_normal((700, 4))
    rows[600:, 2] += 1.5
    seen = []
    for i, row in enumerate(rows):
        features = dict(zip(reference.names, row.tolist(), strict=True))
        engine.step(
            Observation(model="m", symbol="s", timeframe="5m", ts_ms=(3000 + i) * FIVE_MINUTES, features=features)
        )
        if i in (620, 699):
            # As JSON: NaN would be none.
            answer = json.loads(json.dumps(explain(engine), allow_nan=False))
            change = next(d for d in answer["detectors"] if d["detector"] == "calibrated")["change"]
            seen.append(change["features"][0])
    early, late = seen
    assert early["name"] == late["name"] == "f2"
    assert (early["psi"], early["wasserstein"]) == (None, None)
    assert late["psi"] > 1
    assert 1.0 < late["wasserstein"] < 2.0
