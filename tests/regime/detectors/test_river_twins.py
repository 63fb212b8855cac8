"""The compiled ADWIN and Page-Hinkley alarm where river's do. The long form: bench_kernels.py --equality 10000."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from regime.detectors.adwin import Adwin
from regime.detectors.page_hinkley import PageHinkley
from regime.detectors.river_adwin import RiverAdwin
from regime.detectors.river_page_hinkley import RiverPageHinkley


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_kernels", Path(__file__).parents[2] / "bench/bench_kernels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_alarms_are_rivers_on_every_kind_of_stream_with_gaps_and_restarts(bench: ModuleType) -> None:
    alarms = {}
    for name, _, count, different in bench.compare(240, 42, rows=1500):
        assert different == []
        alarms[name] = alarms.get(name, 0) + count
    assert all(count > 500 for count in alarms.values())


def test_the_comparison_sees_a_clock_that_is_off_by_one(bench: ModuleType) -> None:
    wrong: dict[str, int] = {}
    for name, _, _, different in bench.compare(48, 43, wrong=True, rows=1500):
        wrong[name] = wrong.get(name, 0) + len(different)
    assert all(count > 20 for count in wrong.values()), wrong


@pytest.mark.parametrize(
    ("ours", "rivers", "options"),
    [
        (Adwin, RiverAdwin, {"memory": 100, "clock": 8, "delta": 0.05}),
        (PageHinkley, RiverPageHinkley, {"memory": 100, "limit": 10.0}),
    ],
)
def test_the_whole_answer_is_that_of_the_detector_made_of_rivers_objects(
    bench: ModuleType, ours: type, rivers: type, options: dict[str, float]
) -> None:
    reference, stream = bench.streams(7, 24, 900)
    one, other = ours(**options), rivers(**options)
    one.reset(reference)
    other.reset(reference)
    said = set()
    for x in stream:
        one.update(x)
        other.update(x)
        assert (one.warm, repr(one.statistic), one.threshold) == (other.warm, repr(other.statistic), other.threshold)
        np.testing.assert_array_equal(one.feature_statistics, other.feature_statistics)
        said.add(one.statistic)
    assert len(said) > 5
