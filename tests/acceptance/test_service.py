"""The service as a process: how it starts, refuses, fails and ends."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from regime_service.cli import main
from regime_service.testing import Served

STREAM = {"model": "m", "symbol": "BTC/USDT:USDT", "timeframe": "5m"}
Serve = Callable[..., Served]


def rows(start: int, count: int, **changes: Any) -> list[dict[str, Any]]:
    return [
        {**STREAM, "ts_ms": i * 300_000, "features": {"a": float(i % 7), "b": float(i % 5)}, **changes}
        for i in range(start, start + count)
    ]


def side(served: Served, name: str = "long") -> dict[str, Any]:
    found: dict[str, Any] = served.get("/v1/thresholds", **STREAM).json()["thresholds"][0]["sides"][name]
    return found


def regime(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "regime_service.cli", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_drains_and_exits_0_on_sigterm_and_a_restart_answers_the_same(serve: Serve) -> None:
    served = serve()
    answer = served.post("/v1/observations", rows(0, 60)).json()
    assert (answer["accepted"], answer["thresholds"][0]["sides"]["long"]["state"]) == (60, "ACTIVE")
    before = served.get("/v1/thresholds", **STREAM).json()["thresholds"]
    assert served.stop() == 0
    again = serve()
    assert again.get("/v1/thresholds", **STREAM).json()["thresholds"] == before


def test_an_operator_outranks_the_rules_and_halted_ends_in_reducing(serve: Serve) -> None:
    served = serve()
    served.post("/v1/observations", rows(0, 60))
    said = served.post("/v1/overrides", {"model": "m", "state": "HALTED", "actor": "ana", "reason": "exchange down"})
    assert said.status == 200, said.body
    assert side(served)["state"] == "HALTED"
    assert served.request("DELETE", f"/v1/overrides/{said.json()['id']}").status == 200
    assert side(served)["state"] == "REDUCING"
    served.post("/v1/observations", rows(60, 1))
    assert side(served)["state"] == "ACTIVE"
    trail = served.get("/v1/decisions", **STREAM).json()["decisions"]
    assert [t["version"] for t in trail] == sorted({t["version"] for t in trail})
    assert "exchange down" in str(trail)


def test_a_store_that_fails_ends_in_503_with_the_reason_and_exit_1_within_5_s(serve: Serve) -> None:
    served = serve()
    served.post("/v1/observations", rows(0, 60))
    version = served.get("/v1/thresholds", **STREAM).json()["thresholds"][0]["version"]
    # From here on no file of that process may grow: the disk is full, as far as it can tell.
    size = served.store.with_name(served.store.name + "-wal").stat().st_size
    before = resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (size, before[1]))
    refused = served.post("/v1/observations", rows(60, 100, probabilities={"long": 0.9}))
    failed_s = time.monotonic()
    # The store has failed for good by now; what else the process writes as it ends (coverage) is not our business.
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, before)
    assert refused.status == 503, refused.body
    told = served.get("/v1/thresholds", **STREAM)
    assert told.status == 503
    assert told.json()["detail"], "the reason is said"
    assert served.get("/readyz").status == 503
    assert served.process.wait(10) == 1
    assert time.monotonic() - failed_s < 5
    again = serve()
    assert again.get("/v1/thresholds", **STREAM).json()["thresholds"][0]["version"] == version
    assert again.post("/v1/observations", rows(0, 60)).json()["duplicates"] == 60, "nothing acknowledged was lost"


def test_started_on_a_store_that_cannot_be_written_it_says_so_instead_of_going_round(tmp_path: Path) -> None:
    served = Served(tmp_path, 'clock = "event"\n', "--store", "/proc/regimegate/store.db")
    try:
        assert served.get("/readyz").status == 503
        told = served.get("/v1/thresholds", **STREAM)
        assert told.status == 503
        assert "/proc/regimegate" in told.json()["detail"]
        assert served.get("/healthz").status == 200
    finally:
        assert served.stop() == 0


def test_a_second_service_on_the_same_store_is_refused(serve: Serve, tmp_path: Path) -> None:
    first = serve()
    second = regime("serve", "--store", str(first.store), "--port", "0", cwd=tmp_path)
    assert second.returncode == 2
    assert "store.db" in second.stderr
    assert first.get("/readyz").status == 200


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("serve", "--host", "0.0.0.0"), "without keys only loopback is safe"),
        (("serve", "--config", "absent.toml"), "absent.toml does not exist"),
        (("serve", "--preset", "sed-rules"), "preset"),
        (("replay", "--features", "nothing/*.csv", "--out", "out"), "nothing/*.csv"),
        (("verify-log", "absent.db"), "absent.db"),
    ],
)
def test_wrong_usage_exits_2_with_one_sentence(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = regime(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") <= 2


def test_verify_log_walks_the_store_and_names_the_first_damaged_row(serve: Serve, tmp_path: Path) -> None:
    served = serve()
    served.post("/v1/observations", rows(0, 60))
    served.stop()
    sound = regime("verify-log", str(served.store), cwd=tmp_path)
    assert sound.returncode == 0, sound
    assert "60 events" in sound.stdout
    connection = apsw.Connection(str(served.store))
    connection.execute("UPDATE events SET body = CAST(replace(body, ':9000000', ':9000001') AS BLOB) WHERE seq = 31")
    assert connection.changes() == 1
    connection.close()
    damaged = regime("verify-log", str(served.store), cwd=tmp_path)
    assert damaged.returncode == 1, damaged
    assert "31" in damaged.stderr, "the event of candle 30 is the 31st"


def test_a_foreign_host_and_a_foreign_page_are_refused(serve: Serve) -> None:
    served = serve()
    assert served.get("/v1/thresholds", {"Host": "evil.example"}, **STREAM).status == 403
    assert served.get("/v1/thresholds", {"Origin": "http://evil.example"}, **STREAM).status == 403
    assert served.get("/healthz").status == 200


def test_a_back_up_of_a_running_service_is_restored_under_a_new_epoch(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = serve()
    served.post("/v1/observations", rows(0, 60))
    old = served.get("/v1/thresholds", **STREAM).json()["thresholds"][0]
    backup, store = str(tmp_path / "backup.db"), ("--store", str(served.store))
    assert (main(["backup", backup, *store]), "60 events" in capsys.readouterr().out) == (0, True)
    assert (main(["backup", backup, *store]), "exists already" in capsys.readouterr().err) == (2, True)
    served.post("/v1/observations", rows(60, 5))
    served.stop()
    assert (main(["restore", backup, *store]), "exists already" in capsys.readouterr().err) == (2, True)
    served.store.rename(tmp_path / "lost.db")
    assert (main(["restore", backup, *store]), "new epoch" in capsys.readouterr().out) == (0, True)
    served = serve()
    new = served.get("/v1/thresholds", **STREAM).json()["thresholds"][0]
    assert new["epoch"] > old["epoch"]
    assert {**new, "epoch": ""} == {**old, "epoch": ""}
    assert served.post("/v1/observations", rows(60, 5)).json()["accepted"] == 5, "what came later is sent again"
