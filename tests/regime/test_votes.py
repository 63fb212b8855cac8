from __future__ import annotations

import numpy as np
import pytest

from regime.outcomes import Outcome
from regime.votes import Evidence, since_training

DAY_MS = 86_400_000
TRAINED_MS = 1_700_000_000_000


def losing(n: int = 200) -> list[Outcome]:
    rng = np.random.default_rng(5)
    return [
        Outcome(
            closed_ms=TRAINED_MS + (i + 1) * DAY_MS // 4, profit_ratio=0.01 if rng.random() < 0.3 else -0.01,
            exit_kind="other", shadow=False,
        )
        for i in range(n)
    ]  # fmt: skip


def alarm(since_ms: int | None, channel: str = "features") -> Evidence:
    return Evidence("calibrated", 9.0, 1.0, warm=True, drift=True, top=(), channel=channel, since_ms=since_ms)


@pytest.mark.parametrize(
    ("evidence", "verdict"),
    [
        ([], "overfit"),
        ([alarm(TRAINED_MS + 30 * DAY_MS)], "overfit"),  # The losses were there long before the features moved.
        ([alarm(TRAINED_MS + DAY_MS)], "unknown"),  # Both at once: nobody can tell them apart.
        ([alarm(None)], "unknown"),  # The features moved, nobody knows when.
        ([alarm(TRAINED_MS + DAY_MS, channel="scores")], "overfit"),  # The model's own scores are no market.
        ([alarm(TRAINED_MS + 30 * DAY_MS), alarm(TRAINED_MS + DAY_MS)], "unknown"),  # The first change counts.
    ],
)
def test_the_date_of_a_drift_tells_overfit_from_a_change_of_the_market(evidence: list[Evidence], verdict: str) -> None:
    found = since_training(losing(), TRAINED_MS, evidence, TRAINED_MS + 60 * DAY_MS)
    assert found.verdict == verdict
    assert found.sentence.startswith("out of sample since 2023-11-14")
