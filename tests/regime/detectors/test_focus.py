from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from regime.detectors.focus import LONGEST, Focus, limit_of
from regime.kernels import focus as kernel
from regime.reference import Reference

Floats = NDArray[np.float64]


def kernel_path(z: Floats, bonus: Floats, rows_inverse: float = 0.0) -> tuple[Floats, NDArray[np.int64]]:
    """Score, age and question after each row, of columns that need no standardising."""
    columns, room = z.shape[1], 256
    scale = np.array([np.ones(columns), np.zeros(columns), np.ones(columns)])
    live = np.ones(columns, dtype=np.bool_)
    inverse = np.full(columns, rows_inverse)
    begins, heights = np.zeros((columns, 4, room), dtype=np.int64), np.zeros((columns, 4, room))
    corners, totals, seen = np.zeros((columns, 4), dtype=np.int64), np.zeros((columns, 2)), np.zeros(columns, np.int64)
    scores, found = np.zeros(columns), np.zeros((columns, 2), dtype=np.int64)
    all_scores, all_found = [], []
    for x in z:
        kernel.take(x, scale, live, inverse, bonus, begins, heights, corners, totals, seen, scores, found)
        all_scores.append(scores.copy())
        all_found.append(found.copy())
    return np.array(all_scores), np.array(all_found)


def brute_force(z: Floats, question: int, rows_inverse: float) -> Floats:
    """Every beginning tried, for one question, after each row."""
    y = z if question < 2 else z * z - 1
    total = np.concatenate((np.zeros((1, z.shape[1])), np.cumsum(y, axis=0)))
    best = np.zeros(z.shape)
    for t in range(1, len(total)):
        for i in range(t):
            rise, w = total[t] - total[i], t - i
            e = np.maximum(rise / w, -0.999999)
            score = rise**2 / (2 * w) if question < 2 else 0.5 * w * (e - np.log1p(e))
            score = score / (1 + w * rows_inverse)
            asked = rise > 0 if question % 2 == 0 else rise < 0
            best[t - 1] = np.maximum(best[t - 1], np.where(asked, score, 0.0))
    return best


@pytest.mark.parametrize("question", range(4))
def test_no_beginning_of_a_change_is_better_than_the_corners(question: int) -> None:
    rng = np.random.default_rng(question)
    z = rng.standard_normal((260, 5))
    z[130:, 0] += 0.7
    z[130:, 1] -= 0.7
    z[130:, 2] *= 2
    z[130:, 3] *= 0.3
    z[:, 4] = np.round(z[:, 4])
    bonus = np.full((4, 300), -1e9)
    bonus[question] = 0.0
    found, _ = kernel_path(z, bonus)
    np.testing.assert_allclose(found, brute_force(z, question, 0.0), rtol=1e-9, atol=1e-9)


def test_the_error_of_the_reference_costs_little_on_the_corners() -> None:
    """The corners are exact without `1 + w / N`; with it the best beginning may be none of them, by a little."""
    z = np.random.default_rng(5).standard_normal((300, 8)) + 0.1
    bonus = np.full((4, 400), -1e9)
    bonus[0] = 0.0
    found, exact = kernel_path(z, bonus, 1 / 500)[0], brute_force(z, 0, 1 / 500)
    assert (found <= exact + 1e-9).all()
    assert (found >= exact - 0.35).all()


def test_what_is_older_than_the_longest_is_forgotten() -> None:
    z = (-1.0) ** np.arange(400)[:, None]
    z[0] = 30.0
    found, _ = kernel_path(z, np.zeros((4, 101)))
    assert found[99, 0] > 4
    assert found[100, 0] < 1


def test_a_change_of_each_kind_is_named_and_dated() -> None:
    rng = np.random.default_rng(6)
    focus = Focus()
    focus.reset(Reference(list("abcde"), 5 + 3 * rng.standard_normal((5000, 5))))
    stream = rng.standard_normal((600, 5))
    stream[400:, 0] += 1
    stream[400:, 1] -= 1
    stream[400:, 2] *= 2
    stream[400:, 3] *= 0.4
    for x in 5 + 3 * stream:
        focus.update(x)
    assert [what for _, what in focus.changes][:4] == ["mean up", "mean down", "scale up", "scale down"]
    assert all(abs(ago - 200) <= 6 for ago, _ in focus.changes[:4])
    np.testing.assert_array_equal(focus.feature_statistics > 1, [True, True, True, True, False])


def test_the_corners_get_more_room_when_they_need_it() -> None:
    focus = Focus()
    focus.reset(Reference(["a"], np.random.default_rng(1).standard_normal((500, 1))))
    room = focus.state()["begins"].shape[2]
    for t in range(200):  # Every point of an arc is a corner.
        focus.update(np.array([0.01 * t]))
    state = focus.state()
    assert state["begins"].shape[2] > room
    assert state["corners"].max() > room
    again = Focus()
    again.reset(Reference(["a"], np.random.default_rng(1).standard_normal((500, 1))))
    again.load_state(state)
    assert again.fingerprint() == focus.fingerprint()
    assert again.statistic == focus.statistic


def test_the_limit_grows_by_the_logarithm_of_the_run_length() -> None:
    limits = [limit_of(10.0**k) for k in range(2, 12)]
    steps = np.diff(limits) / math.log(10)
    assert (steps > 1).all()
    assert (steps < 1.5).all()


def test_independent_features_ring_as_often_as_asked() -> None:
    rng = np.random.default_rng(13)
    rang, exposure = 0, 0
    for _ in range(40):
        focus = Focus(arl=400)
        focus.reset(Reference(list("abcde"), rng.standard_normal((5000, 5))))
        for x in rng.standard_normal((2000, 5)):
            exposure += 1
            focus.update(x)
            if focus.drift_detected:
                rang += 1
                break
    assert 260 < exposure / rang < 640


def test_the_module_can_be_imported_without_numba() -> None:
    code = "import sys; sys.modules['numba'] = None; from regime.detectors.focus import Focus as D; D.examples()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_longest_is_where_the_bonus_ends() -> None:
    assert Focus()._bonus.shape == (4, LONGEST + 1)


@pytest.mark.parametrize(
    ("options", "words"), [({"arl": 0.5}, "arl"), ({"arl": float("inf")}, "arl"), ({"robust": None}, "robust")]
)
def test_bad_options_are_refused_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Focus(**options)


def test_state_of_another_set_up_is_refused() -> None:
    values = np.random.default_rng(3).standard_normal((600, 2))
    one, other = Focus(), Focus()
    one.reset(Reference(["a", "b"], values))
    other.reset(Reference(["a"], values[:, :1]))
    with pytest.raises(ValueError, match="another set-up"):
        other.load_state(one.state())
