from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from river import drift

from regime.detectors.kswin import Kswin
from regime.reference import Reference


def test_alarms_where_a_plain_loop_over_rivers_objects_does_with_a_seed_for_each_live_feature() -> None:
    rng = np.random.default_rng(1)
    values, stream = rng.standard_normal((400, 3)), rng.standard_normal((260, 3))
    values[:, 1] = 4.0
    stream[120:] += 2.0
    detector = Kswin(alpha=0.001, window_size=60, stat_size=20, seed=7, memory=50)
    detector.reset(Reference(["a", "dead", "z"], values))
    mean, spread = values.mean(axis=0), values.std(axis=0)
    loop = {0: 7, 2: 8}
    rivers = {c: drift.KSWIN(alpha=0.001, window_size=60, stat_size=20, seed=seed) for c, seed in loop.items()}
    expected, found = [], []
    for row, x in enumerate(stream):
        for column, one in rivers.items():
            one.update((x[column] - mean[column]) / spread[column])
            if one.drift_detected:
                expected.append((row, column))
        detector.update(x)
        found += [(row, int(c)) for c in np.flatnonzero(detector.feature_statistics == 51)]
    assert len(expected) > 1
    assert found == expected


def test_the_module_can_be_imported_without_river() -> None:
    code = "import sys; sys.modules['river'] = None; from regime.detectors.kswin import Kswin as D; D.examples()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": 0.0}, "alpha"),
        ({"window_size": 0}, "window_size"),
        ({"window_size": 59, "stat_size": 30}, "window_size"),
        ({"stat_size": True}, "stat_size"),
        ({"seed": -1}, "seed"),
        ({"memory": 0}, "memory"),
        ({"share_limit": 2.0}, "share_limit"),
    ],
)
def test_bad_options_are_refused_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Kswin(**options)
