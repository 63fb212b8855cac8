"""The service as a process: how it starts, refuses, fails and ends."""

from __future__ import annotations

import contextlib
import http.client
import io
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import apsw
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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


def test_a_public_address_without_a_key_is_refused_and_with_one_it_serves_who_bears_it(tmp_path: Path) -> None:
    store, public = ("--store", str(tmp_path / "store.db")), ("--host", "0.0.0.0", "--port", "0")
    refused = regime("serve", *store, *public, cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "without keys only loopback is safe" in refused.stderr
    assert "regime keys create" in refused.stderr
    assert "Traceback" not in refused.stderr
    made = regime("keys", "create", "--scope", "read", *store, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    served = Served(tmp_path, 'clock = "event"\n', "--host", "0.0.0.0")
    try:
        served.address = served.address.replace("0.0.0.0", "127.0.0.1")
        key = made.stdout.strip()
        assert served.get("/readyz").status == 401
        assert served.get("/readyz", {"Authorization": f"Bearer {key}"}).status == 200
    finally:
        served.stop()
    assert regime("keys", "revoke", key[4:12], *store, cwd=tmp_path).returncode == 0
    refused = regime("serve", *store, *public, cwd=tmp_path)
    assert (refused.returncode, "without keys" in refused.stderr) == (2, True)


def test_a_running_service_notices_new_and_revoked_keys_and_keeps_whose_word_it_was(
    serve: Serve, tmp_path: Path
) -> None:
    served = serve()
    store = ("--store", str(served.store))
    served.post("/v1/observations", rows(0, 60))
    assert served.get("/v1/explain", **STREAM).status == 200
    key = regime("keys", "create", "--scope", "admin", *store, cwd=tmp_path).stdout.strip()
    bearer = {"Authorization": f"Bearer {key}"}

    def refused_soon(headers: dict[str, str]) -> None:
        end_s = time.monotonic() + 5
        while served.get("/v1/explain", headers, **STREAM).status != 401:
            assert time.monotonic() < end_s, "not noticed within 5 s"
            time.sleep(0.1)

    refused_soon({})
    word = b'{"model": "m", "state": "HALTED", "actor": "ana", "reason": "r", "id": "x"}'
    said = served.request("POST", "/v1/overrides", word, {**bearer, "Content-Type": "application/json"})
    assert said.status == 200, said.body
    overrides = served.get("/v1/explain", bearer, **STREAM).json()["overrides"]
    assert [o["key_id"] for o in overrides] == [key[4:12]]
    assert regime("keys", "revoke", key[4:12], *store, cwd=tmp_path).returncode == 0
    refused_soon(bearer)
    assert served.stop() == 0
    for file in tmp_path.iterdir():
        assert key[13:].encode() not in file.read_bytes(), file


def test_two_hundred_hostile_clients_hold_little_memory_and_bots_are_still_answered(serve: Serve) -> None:
    served = serve('clock = "event"\n[server]\nheader_timeout_s = 2.0\nconnections_max = 150\n')
    served.post("/v1/observations", rows(0, 60))
    served.get("/v1/thresholds", **STREAM)
    host, port = served.address.split(":")

    def resident_bytes() -> int:
        pages = Path(f"/proc/{served.process.pid}/statm").read_text().split()[1]
        return int(pages) * resource.getpagesize()

    before = resident_bytes()
    hostile = []
    post = (
        b"POST /v1/equity HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    # A header without end, a small body without end, and 64 KiB of a body of 8 MiB.
    kinds = [b"GET / HTTP/1.1\r\nX: " + b"x" * 30_000, post % 100, post % 8_000_000 + b" " * 65_000]
    bot = http.client.HTTPConnection(served.address, timeout=5)
    try:
        for i in range(200):
            hostile.append(socket.create_connection((host, int(port)), timeout=10))
            with contextlib.suppress(OSError):  # It may have had to make room already.
                hostile[-1].sendall(kinds[i % 3])
        for _ in range(3):
            begun_s = time.monotonic()
            bot.request("GET", f"/v1/thresholds?{urlencode(STREAM)}")
            answer = bot.getresponse()
            assert (answer.status, len(answer.read()) > 100) == (200, True)
            assert time.monotonic() - begun_s < 3
        grown = resident_bytes() - before
        assert grown < 64 * 1024 * 1024, grown
    finally:
        bot.close()
        for sock in hostile:
            sock.close()


def test_a_hostile_upload_ends_in_422_and_the_service_goes_on(serve: Serve) -> None:
    served = serve('clock = "event"\n[server]\ndecode_memory_mb = 512\n')
    served.post("/v1/observations", rows(0, 60))
    out = io.BytesIO()
    many = 1_900_000
    # Some 100 kB on the wire, half a gigabyte unpacked.
    pq.write_table(pa.table({"a": np.zeros(many), "t": pa.array(["x" * 300] * many)}), out, compression="zstd")
    refused = served.put("/v1/models/m/references/v1", out.getvalue(), "application/vnd.apache.parquet")
    assert (refused.status, refused.headers["content-type"]) == (422, "application/problem+json")
    assert "512 MiB" in refused.json()["detail"]
    taken = served.put("/v1/models/m/references/v1", b"a,b\n" + b"1,2\n3,4\n5,6\n" * 30, "text/csv")
    assert (taken.status, taken.json()["rows"]) == (200, 90)
    assert served.get("/v1/thresholds", **STREAM).status == 200


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
