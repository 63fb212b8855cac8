"""Uploads are unpacked apart: in a process of their own, with little memory, little time and no secrets.

A Parquet file of some kilobytes may unpack to terabytes, and its reader is compiled code that a crafted file may crash.
Neither is to happen where the writer thread lives. So the file that was uploaded is the standard input of a fresh
`python -m regime_service.apart`, which limits itself before it looks at a byte (address space, processor time, no file
may be written), reads it, and writes a `Reference` in our own plain form. Whatever else becomes of it is the caller's
422. It is no jail: it may still do what this user may do, should somebody ever take it over.

Fresh, and not forked: a fork of a process with threads inherits locks that nobody will ever release.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import msgspec

from regime.errors import CallerError, CorruptionError, FieldError, Unavailable
from regime.reference import Reference

MIB = 1024 * 1024
READ, REFUSED, MEMORY = b"R", b"E", b"M"
"""First byte of what comes back: a reference, an error as JSON, or "it did not fit"."""


class _Refusal(msgspec.Struct):
    detail: str
    status: int
    errors: list[tuple[str, str]]


def reference_apart(
    file: IO[bytes],
    content_type: str,
    *,
    memory_mb: int = 2048,
    timeout_s: float = 120.0,
    environment: Mapping[str, str] | None = None,
) -> Reference:
    """Read a reference from an open file (a real one) in a process of its own; blocks until that has ended.

    `memory_mb` bounds its address space (330 MiB of it are libraries), `timeout_s` its processor time and the time on
    the wall. Raises `CallerError`: what the reader said, or 422 where it died of the file; `Unavailable` where it
    cannot be started.
    """
    seconds = max(1, round(timeout_s))
    command = [sys.executable, "-I", "-B", "-m", __name__, content_type, str(memory_mb * MIB), str(seconds)]
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # Each thread reserves address space.
    try:
        child = subprocess.Popen(
            command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**(environment or {}), **one_thread},
        )  # fmt: skip
    except OSError as error:
        raise Unavailable(
            f"The reader of references cannot be started ({error.strerror}). Nothing was stored. Send it again.",
            retry_after_s=10,
        ) from None
    late = threading.Event()

    def end() -> None:
        late.set()
        child.kill()

    watch = threading.Timer(timeout_s, end)
    watch.start()
    try:
        assert child.stdout is not None
        with child.stdout:
            first, rest = child.stdout.read(1), _rest(child.stdout, memory_mb * MIB)
        if rest is None:
            child.kill()  # It would go on writing for ever.
        code = child.wait()
    finally:
        watch.cancel()
    if late.is_set() or code == -signal.SIGXCPU:
        raise _hostile(f"took longer than {timeout_s:g} s to be read (`decode_timeout_s`)")
    return _result(first, rest or b"", code, memory_mb)


def _rest(pipe: IO[bytes], bytes_max: int) -> bytes | None:
    """What else comes out of a pipe, piece by piece (a read of the whole would reserve it all); None: too much."""
    pieces: list[bytes] = []
    while piece := pipe.read(MIB):
        pieces.append(piece)
        if len(pieces) * MIB > bytes_max:
            return None
    return b"".join(pieces)


def _result(first: bytes, rest: bytes, code: int, memory_mb: int) -> Reference:
    match first:
        case b"R":
            # Cut short, or not ours: it died while it wrote.
            with contextlib.suppress(CorruptionError):
                return Reference.from_bytes(rest)
        case b"E":
            with contextlib.suppress(msgspec.MsgspecError):
                refusal = msgspec.json.decode(rest, type=_Refusal)
                errors = [FieldError(path, message) for path, message in refusal.errors]
                raise CallerError(refusal.detail, status=refusal.status, errors=errors)
        case b"M":
            raise _hostile(f"needs more than {memory_mb:,} MiB to be unpacked (`decode_memory_mb`)")
    # Compiled code that finds no memory may as well abort.
    raise _hostile(
        f"ended its reader without a word (code {code}): it is damaged, made to do so, or needs more than "
        f"{memory_mb:,} MiB to be unpacked (`decode_memory_mb`)"
    )


def _hostile(what: str) -> CallerError:
    return CallerError(
        f"the reference cannot be read: the file {what}. Nothing was stored, and nothing else was disturbed. Send "
        "fewer rows or columns, or a plain CSV; if the file is right, its operator can raise that limit."
    )


# --- the process itself ---------------------------------------------------------------------------------------------


def read(path: Path, content_type: str) -> bytes:
    """Return what is to be written to standard output about the file."""
    from regime_service.logs import reference_from_bytes

    try:
        return READ + reference_from_bytes(path, content_type)[0].to_bytes()
    except CallerError as error:
        if _for_memory(error):
            return MEMORY
        refusal = _Refusal(error.detail, error.status_hint, [(e.path, e.message) for e in error.errors])
    except MemoryError:
        return MEMORY
    except ValueError as error:
        refusal = _Refusal(f"the reference cannot be read: {error}. Nothing was stored.", 422, [])
    except Exception as error:
        # Compiled readers raise what they like; their words may hold anything, so only the kind is told.
        refusal = _Refusal(f"the reference cannot be read ({type(error).__name__}). Nothing was stored.", 422, [])
    return REFUSED + msgspec.json.encode(refusal)


def _for_memory(error: BaseException) -> bool:
    """Whether it was memory in the end; the Parquet reader says so in words of its own only."""
    cause = error.__cause__ or error.__context__
    return isinstance(error, MemoryError) or (cause is not None and _for_memory(cause))


def limit(memory_bytes: int, processor_s: int) -> None:
    """Limit this process for good: address space, processor time, open files; no core, no file may grow."""
    for kind, value in (
        (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_AS, memory_bytes),
    ):  # fmt: skip
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    # The soft one ends it with a signal that says why; the hard one, should that be caught.
    resource.setrlimit(resource.RLIMIT_CPU, (processor_s, processor_s + 1))
    with contextlib.suppress(OSError):  # Linux: should memory run out all the same, this one goes and not the service.
        Path("/proc/self/oom_score_adj").write_text("1000")


def main(arguments: list[str]) -> int:
    """Read standard input, which is a file, within the limits; write what `read` returns."""
    content_type, memory_bytes, processor_s = arguments
    limit(int(memory_bytes), int(processor_s))
    try:
        said = read(Path("/dev/fd/0"), content_type)
    except MemoryError:
        said = MEMORY
    sys.stdout.buffer.write(said)
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

__all__ = ["limit", "main", "read", "reference_apart"]
