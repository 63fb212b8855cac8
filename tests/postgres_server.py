"""A PostgreSQL server for the tests: in a temporary folder, behind a Unix socket, as a user without rights.

The role of the tests is an ordinary one with a password, as on a server that is looked after; only the tests themselves
use the superuser. Found on the PATH or where Debian puts it, newest first.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

PASSWORD = "p@ss/w:rd"
QUOTED = "p%40ss%2Fw%3Ard"
MISSING = "PostgreSQL is not installed (Debian, Ubuntu: apt install postgresql)"


def programs() -> Path | None:
    """The folder of `initdb` and `pg_ctl`, which Debian does not put on the PATH."""
    found = shutil.which("initdb")
    if found is not None and shutil.which("pg_ctl") is not None:
        return Path(os.path.realpath(found)).parent
    folders = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
    return max(folders, key=lambda path: float(path.parent.name), default=None)


class PostgresServer:
    """Started when made. `url` is for the program under test, `psql` for the hand of the test."""

    def __init__(self, folder: Path) -> None:
        self._bin = folder
        self._folder = Path(tempfile.mkdtemp(prefix="regime-pg-"))
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            user = next(pwd.getpwnam(name) for name in ("postgres", "nobody") if _exists(name))
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._data = self._folder / "data"
        self._run(
            "initdb", "--auth=trust", "--username=boss", "--encoding=UTF8", "--no-locale", "--data-checksums",
            "--no-instructions", "--no-sync", "--pgdata", str(self._data),
        )  # fmt: skip
        (self._data / "pg_hba.conf").write_text("local all boss trust\nlocal all all scram-sha-256\n")
        with (self._data / "postgresql.conf").open("a") as conf:
            # wal_writer_delay: what COMMIT does not write stays unwritten, so that the negative control can lose it.
            conf.write(
                f"\nlisten_addresses = ''\nunix_socket_directories = '{self._folder}'\nfsync = on\n"
                "max_connections = 20\n"
                "shared_buffers = 32MB\nwal_writer_delay = 10s\nwal_writer_flush_after = 1GB\n"
            )
        self.start()
        self.psql(f"CREATE ROLE bot LOGIN PASSWORD '{PASSWORD}'", database="postgres")
        self.psql("CREATE DATABASE regime OWNER bot", database="postgres")

    @property
    def url(self) -> str:
        return f"postgresql://bot:{QUOTED}@/regime?host={self._folder}"

    def start(self, *options: str) -> None:
        self._run(
            "pg_ctl", "start", "-w", "-D", str(self._data), "-l", str(self._folder / "log"), "-o", " ".join(options)
        )

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "stop", "-w", "-D", str(self._data), "-m", mode)

    def running(self) -> bool:
        return self._run("pg_ctl", "status", "-D", str(self._data), check=False) == 0

    def psql(self, sql: str, database: str = "regime") -> list[tuple[Any, ...]]:
        """Run SQL as the superuser."""
        import psycopg

        with psycopg.connect(host=str(self._folder), user="boss", dbname=database, autocommit=True) as connection:
            cursor = connection.execute(sql)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def dump(self) -> bytes:
        """The database as `pg_dump` sees it, in the form that `psql` takes."""
        done = subprocess.run(
            [self._bin / "pg_dump", "-h", self._folder, "-U", "boss", "regime"],
            check=True,
            capture_output=True,
            **self._as,
        )  # fmt: skip
        return done.stdout

    def load(self, dump: bytes) -> None:
        subprocess.run(
            [self._bin / "psql", "-q", "-v", "ON_ERROR_STOP=1", "-h", self._folder, "-U", "boss", "regime"],
            input=dump, check=True, capture_output=True, **self._as,
        )  # fmt: skip

    def empty(self) -> None:
        """Make it as it was at first: running, with nobody connected and an empty database."""
        if not self.running():
            self.start()
        self.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'bot'")
        self.psql("DROP SCHEMA IF EXISTS regimegate CASCADE")

    def remove(self) -> None:
        if self.running():
            self.stop("immediate")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str, check: bool = True) -> int:
        # Not captured: the server would inherit the pipe, and reading it would never end.
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(
                [self._bin / program, *arguments], cwd="/", stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                check=False, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"}, **self._as,
            )  # fmt: skip
            if check and done.returncode:
                said.seek(0)
                raise RuntimeError(f"{program}: {said.read().decode(errors='replace')}")
        return done.returncode


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
