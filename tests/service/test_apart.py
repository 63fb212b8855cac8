"""Uploads are unpacked apart: what a hostile file can do there, and that nothing of it reaches the service."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from regime.errors import CallerError, RegimeError, Unavailable
from regime_service import apart
from regime_service.apart import MEMORY, READ, read, reference_apart
from regime_service.logs import reference_from_bytes

PARQUET = "application/vnd.apache.parquet"


def parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


@pytest.fixture
def uploaded(tmp_path: Path) -> Iterator[Callable[[bytes], IO[bytes]]]:
    """The body of a request as the API holds it: an open file."""
    opened: list[IO[bytes]] = []

    def put(body: bytes) -> IO[bytes]:
        (tmp_path / "body").write_bytes(body)
        opened.append((tmp_path / "body").open("rb"))
        return opened[-1]

    yield put
    for file in opened:
        file.close()


Uploaded = Callable[[bytes], IO[bytes]]


@pytest.mark.parametrize("kind", ["text/csv", PARQUET])
def test_what_comes_back_is_what_would_have_been_read_here(uploaded: Uploaded, kind: str) -> None:
    rows = np.random.default_rng(1).normal(size=(500, 3))
    body = b"a,b,c\n" + b"".join(f"{x!r},{y!r},{z!r}\n".encode() for x, y, z in rows.tolist())
    if kind == PARQUET:
        body = parquet(pa.table({name: rows[:, i] for i, name in enumerate("abc")}))
    here = reference_from_bytes(body, kind)[0]
    there = reference_apart(uploaded(body), kind)
    assert there.reference_id == here.reference_id
    assert there.to_bytes() == here.to_bytes()


def test_what_the_reader_says_arrives_with_every_path(uploaded: Uploaded) -> None:
    body = b"a,b\n1,2\n3,nonsense\n4\n" + b"1,2\n" * 10
    with pytest.raises(CallerError) as here:
        reference_from_bytes(body, "text/csv")
    with pytest.raises(CallerError) as there:
        reference_apart(uploaded(body), "text/csv")
    assert there.value.errors == here.value.errors != []
    assert (there.value.detail, there.value.status_hint) == (here.value.detail, here.value.status_hint)


@pytest.mark.parametrize("body", [b"PAR1", b"PAR1" + b"\x00" * 100 + b"PAR1", b"", b"\xff" * 1000])
def test_a_damaged_file_is_422(uploaded: Uploaded, body: bytes) -> None:
    with pytest.raises(CallerError) as refused:
        reference_apart(uploaded(body), PARQUET)
    assert refused.value.status_hint == 422


def test_a_file_that_unpacks_to_more_memory_than_it_may_have_is_422(uploaded: Uploaded) -> None:
    # 1.9 million rows of one value and a text: some 100 kB on the wire, half a gigabyte unpacked.
    rows = 1_900_000
    table = pa.table({"a": pa.array(np.zeros(rows)), "b": pa.array(np.ones(rows)), "t": pa.array(["x" * 300] * rows)})
    body = parquet(table)
    assert len(body) < 1_000_000
    with pytest.raises(CallerError, match="needs more than 512 MiB to be unpacked") as refused:
        reference_apart(uploaded(body), PARQUET, memory_mb=512)
    assert refused.value.status_hint == 422


def test_a_file_that_takes_too_long_is_422_and_its_process_is_gone(
    uploaded: Uploaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b"a,b\n" + b"1.25,2.5\n" * 1_500_000
    started: list[subprocess.Popen[bytes]] = []
    honest = subprocess.Popen

    def popen(*arguments: object, **kwargs: object) -> subprocess.Popen[bytes]:
        started.append(honest(*arguments, **kwargs))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(apart.subprocess, "Popen", popen)
    begun_s = time.monotonic()
    with pytest.raises(CallerError, match=r"took longer than 0\.5 s") as refused:
        reference_apart(uploaded(body), "text/csv", timeout_s=0.5)
    assert time.monotonic() - begun_s < 5
    assert refused.value.status_hint == 422
    assert started[0].returncode is not None


class Killed:
    """A child that dies of its file, in one way or another."""

    def __init__(self, script: str) -> None:
        self.script = script

    def __call__(self, command: list[str], **kwargs: object) -> subprocess.Popen[bytes]:
        return HONEST([command[0], "-c", self.script], **kwargs)  # type: ignore[call-overload,no-any-return]


HONEST = subprocess.Popen


@pytest.mark.parametrize(
    "script",
    [
        "import os; os.abort()",
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "print('Rnonsense', end='')",
        "print('E{', end='')",
        "print('?', end='')",
        "pass",
        "import sys\nwhile True: sys.stdout.buffer.write(bytes(1 << 20))",
    ],
    ids=["abort", "segfault", "no reference", "no JSON", "no word we know", "silence", "endless"],
)
def test_a_reader_that_dies_of_the_file_is_422_whatever_it_wrote(
    uploaded: Uploaded, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(apart.subprocess, "Popen", Killed(script))
    with pytest.raises(CallerError, match="ended its reader without a word") as refused:
        reference_apart(uploaded(b"x"), "text/csv", memory_mb=16)
    assert refused.value.status_hint == 422


def test_processor_time_ends_it_too(uploaded: Uploaded, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import os, signal; os.kill(os.getpid(), signal.SIGXCPU)"
    monkeypatch.setattr(apart.subprocess, "Popen", Killed(script))
    with pytest.raises(CallerError, match="took longer than 7 s"):
        reference_apart(uploaded(b"x"), "text/csv", timeout_s=7)


def test_a_reader_that_cannot_be_started_is_503(uploaded: Uploaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart.sys, "executable", "/nowhere/python")
    with pytest.raises(Unavailable, match="cannot be started"):
        reference_apart(uploaded(b"a\n1\n"), "text/csv")


def test_the_process_has_its_limits_and_none_of_our_environment(
    uploaded: Uploaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import os, resource, json\n"
        "from regime_service import apart\n"
        "apart.limit(700 << 20, 9)\n"
        "found = {n: resource.getrlimit(getattr(resource, 'RLIMIT_' + n)) for n in ('AS', 'CPU', 'FSIZE', 'CORE')}\n"
        "try:\n"
        "    with open('grown', 'wb', buffering=0) as file: file.write(b'x')\n"
        "    wrote = True\n"
        "except OSError: wrote = False\n"
        "said = json.dumps([found, wrote, sorted(os.environ), open('/proc/self/oom_score_adj').read().strip()])\n"
        "print('E' + json.dumps({'detail': said, 'status': 422, 'errors': []}), end='')"
    )
    monkeypatch.setenv("REGIME_WORD", "nobody's business")
    monkeypatch.setattr(apart.subprocess, "Popen", Killed(script))
    monkeypatch.chdir(Path(uploaded(b"x").name).parent)
    with pytest.raises(CallerError) as said:
        reference_apart(uploaded(b"x"), "text/csv", environment={"LANG": "C.UTF-8"})
    found, wrote, names, oom = json.loads(said.value.detail)
    assert found == {"AS": [700 << 20] * 2, "CPU": [9, 10], "FSIZE": [0, 0], "CORE": [0, 0]}
    assert not wrote
    assert "REGIME_WORD" not in names
    assert {"LANG", "OMP_NUM_THREADS"} <= set(names)
    assert oom == "1000"


# --- the process itself, here ---


def test_read_says_one_of_three_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.csv"
    file.write_text("a\n" + "1\n2\n" * 30)
    assert read(file, "text/csv")[:1] == READ
    file.write_text("")
    assert read(file, "text/csv")[:1] == b"E"
    for error, first in (
        (MemoryError(), MEMORY), (ValueError("stands twice"), b"E"), (KeyError("bad"), b"E"), (RecursionError(), b"E"),
    ):  # fmt: skip

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("regime_service.logs.reference_from_bytes", fail)
        said = read(file, "text/csv")
        assert said[:1] == first
        assert (b"stands twice" in said) == isinstance(error, ValueError)

    def wrapped(*_: object) -> None:
        try:
            raise MemoryError
        except MemoryError:
            raise CallerError("cannot be read as Parquet") from None

    monkeypatch.setattr("regime_service.logs.reference_from_bytes", wrapped)
    assert read(file, "text/csv") == MEMORY


def test_limits_are_never_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr(apart.resource, "getrlimit", lambda kind: (10, 10))
    monkeypatch.setattr(apart.resource, "setrlimit", asked.__setitem__)
    monkeypatch.setattr(Path, "write_text", lambda *_: (_ for _ in ()).throw(PermissionError()))
    apart.limit(1 << 40, 5)
    assert asked[resource.RLIMIT_AS] == (10, 10)
    assert asked[resource.RLIMIT_CPU] == (5, 6)


def test_main_reads_standard_input(uploaded: Uploaded, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(apart, "limit", lambda *_: None)
    kept = os.dup(0)
    file = uploaded(b"a\n" + b"1\n2\n" * 30)
    try:
        os.dup2(file.fileno(), 0)
        assert apart.main(["text/csv", "1", "1"]) == 0
    finally:
        os.dup2(kept, 0)
        os.close(kept)
    assert out.buffer.getvalue()[:1] == READ  # type: ignore[attr-defined]
    assert issubclass(Unavailable, RegimeError)
