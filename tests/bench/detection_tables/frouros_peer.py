"""frouros's detectors, in an environment of their own: run by `.venv-frouros/bin/python`, never imported by ours.

It reads one JSON object a line from standard input and answers with one a line:

    {"do": "first", "detector": "ADWIN", "path": "x.npy", "seconds": 20}   rows watched and whether it rang, per column
    {"do": "time", "detector": "ADWIN", "features": 200, "rows": 5}        seconds a row, one object a feature

Column values are standardised. ADWIN gets them shifted by 20, which changes no difference of means: frouros refuses a
window whose sum is negative. Its Page-Hinkley looks upwards only.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
from frouros.detectors.concept_drift import ADWIN, KSWIN, KSWINConfig, PageHinkley

SHIFT = {"ADWIN": 20.0}


def make(name: str, seed: int = 0) -> Any:
    if name == "ADWIN":
        return ADWIN()
    if name == "PageHinkley":
        return PageHinkley()
    return KSWIN(config=KSWINConfig(seed=seed))


def first(name: str, path: str, seconds: float) -> list[list[int]]:
    """Column by column, until the time is over: the columns before it are complete."""
    x = np.load(path) + SHIFT.get(name, 0.0)
    begun, found = time.perf_counter(), []
    for column in range(x.shape[1]):
        one, rang, t = make(name, column), 0, 0
        for t, value in enumerate(x[:, column].tolist()):
            one.update(value=value)
            if one.drift:
                rang = 1
                break
            if t % 50 == 0 and time.perf_counter() - begun > seconds:
                break
        found.append([t + 1, rang])
        if time.perf_counter() - begun > seconds:
            break
    return found


_HELD: dict[tuple[str, int], list[Any]] = {}


def seconds_a_row(name: str, features: int, rows: int) -> float:
    key = (name, features)
    rng = np.random.default_rng(1)
    if key not in _HELD:
        _HELD[key] = [make(name, i) for i in range(features)]
        for x in rng.standard_normal((110 if name == "KSWIN" else 40, features)) + SHIFT.get(name, 0.0):
            for one, value in zip(_HELD[key], x.tolist(), strict=True):
                one.window.append(value) if name == "KSWIN" else one.update(value=value)
    stream = rng.standard_normal((rows, features)) + SHIFT.get(name, 0.0)
    begun = time.perf_counter()
    for x in stream:
        for one, value in zip(_HELD[key], x.tolist(), strict=True):
            one.update(value=value)
            if one.drift:
                one.reset()
    return (time.perf_counter() - begun) / rows


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "first":
            answer: Any = first(asked["detector"], asked["path"], asked["seconds"])
        else:
            answer = seconds_a_row(asked["detector"], asked["features"], asked["rows"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
