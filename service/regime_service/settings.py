"""Settings of the service: one TOML file, environment variables, flags. The only reader of the environment.

Strongest first: a flag, its `REGIME_*` variable, the key in the file, the default. Every key is documented in
`service/config.example.toml`, which the tests read back. An unknown or wrong key is refused by name, with the nearest
valid one.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from regime.config import EngineConfig, Section, from_mapping, nearest
from regime.errors import OperatorError
from regime.policy import build_rules
from regime.watch import build_detectors
from regime_service.logs import LogMapping, TradeMapping
from regime_service.stores.rows import is_url, masked

ENV_PREFIX = "REGIME_"


class ServerSection(Section, frozen=True, kw_only=True):
    """Where the service listens."""

    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback is refused as long as there are no keys."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    """Port; 0 takes a free one and prints it."""
    hosts: list[str] = msgspec.field(default_factory=list)
    """Further `Host` names it answers to (behind a proxy, say)."""
    queue_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 1024
    """Requests that may wait to be written; one more gets 503 with Retry-After."""
    streams_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 2000
    """Streams that may come into being, of the whole installation; each holds up to 1 MiB. Those that exist go on."""
    key_streams_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    """Different streams that one key may send to."""
    features_max: Annotated[int, Meta(ge=1, le=4096)] = 4096
    """Features of one observation."""
    header_timeout_s: Annotated[float, Meta(gt=0.0, le=3600.0)] = 10.0
    """Seconds in which the header of a request must be complete."""
    body_timeout_s: Annotated[float, Meta(gt=0.0, le=3600.0)] = 20.0
    """Seconds in which a body must be complete; each 16 KiB that came buys one more."""
    keep_alive_s: Annotated[int, Meta(ge=1, le=3600)] = 75
    """Seconds after which a connection that asks nothing more is closed; a proxy should keep its own for less."""
    connections_max: Annotated[int, Meta(ge=1, le=100_000)] = 512
    """Connections at once; one more takes the place of the oldest idle one, or gets 503."""
    push_max: Annotated[int, Meta(ge=0, le=100_000)] = 256
    """Event streams (/v1/stream) open at once; each takes one of the connections. 0: none."""
    push_key_max: Annotated[int, Meta(ge=0, le=100_000)] = 64
    """Event streams of one key."""
    decode_memory_mb: Annotated[int, Meta(ge=512, le=1_000_000)] = 2048
    """Address space (MiB) of the process that unpacks an uploaded reference; what needs more is refused."""
    decode_timeout_s: Annotated[float, Meta(ge=1.0, le=3600.0)] = 120.0
    """Seconds in which an uploaded reference must be unpacked."""
    keys_file: str = ""
    """Keys that open the service (`regime keys create`); empty: beside the store, `regimegate.keys.json`."""
    metrics_open: bool = False
    """Whether /metrics needs no key although there are keys."""
    requests_per_s: Annotated[float, Meta(gt=0.0, le=1_000_000.0)] = 100.0
    """Requests a second of one key in the long run; more get 429. Without keys nobody is told to wait."""
    requests_burst: Annotated[int, Meta(ge=1, le=1_000_000)] = 2000
    """Requests of one key at once after a silence: a candle's close brings all of a bot's streams in one second."""


class StoreSection(Section, frozen=True, kw_only=True):
    """Where events are kept."""

    file: str = "regimegate.db"
    """SQLite file; made when it does not exist."""
    url: str = ""
    """PostgreSQL database to keep them in instead of the file: postgresql://USER@HOST:5432/DATABASE."""
    snapshot_every: Annotated[int, Meta(ge=1, le=10_000_000)] = 5000
    """Events between two snapshots at most; a second spent judging since the last one is reason for a new one, too."""

    @property
    def where(self) -> str:
        """The place that counts, with its secrets: hand it to `open_store`, and `masked` to anybody else."""
        return self.url or self.file

    def __repr__(self) -> str:
        # Settings end up in logs and tracebacks; a password must not.
        return f"StoreSection(where={masked(self.where)!r}, snapshot_every={self.snapshot_every})"


class ArchiveSection(Section, frozen=True, kw_only=True):
    """The feature log as Parquet tables, made of the store while the service runs."""

    enabled: bool = True
    """Whether the running service keeps it up to date; `regime log archive` makes it by hand."""
    folder: str = ""
    """Where it is; empty: beside the store, `regimegate.archive`; none beside a PostgreSQL store unless it is named."""
    every_s: Annotated[float, Meta(ge=0.1, le=86_400.0)] = 60.0
    """Seconds between two looks at what is new."""


class LogsSection(Section, frozen=True, kw_only=True):
    """How the bot's own files are read (`regime replay`)."""

    features: LogMapping = msgspec.field(default_factory=LogMapping)
    candles: LogMapping = msgspec.field(default_factory=LogMapping)
    reference: LogMapping = msgspec.field(default_factory=LogMapping)
    trades: TradeMapping = msgspec.field(default_factory=TradeMapping)


class Settings(Section, frozen=True, kw_only=True):
    """Everything, frozen."""

    server: ServerSection = msgspec.field(default_factory=ServerSection)
    store: StoreSection = msgspec.field(default_factory=StoreSection)
    archive: ArchiveSection = msgspec.field(default_factory=ArchiveSection)
    logs: LogsSection = msgspec.field(default_factory=LogsSection)
    engine: EngineConfig = msgspec.field(default_factory=EngineConfig)

    def keys_path(self) -> Path:
        """Return where the keys are kept; each store has its own unless `keys_file` says otherwise."""
        return Path(self.server.keys_file or Path(self.store.file).with_suffix(".keys.json"))

    def archive_folder(self) -> Path | None:
        """Return where the archive is; None where nobody said, and the store is no file."""
        if self.archive.folder or self.store.url:
            return Path(self.archive.folder) if self.archive.folder else None
        return Path(self.store.file).with_suffix(".archive")


_SERVICE_KEYS: dict[str, type[Section]] = {
    "server": ServerSection,
    "store": StoreSection,
    "archive": ArchiveSection,
    "logs": LogsSection,
}

FLAGS: dict[str, tuple[str, ...]] = {
    "host": ("server", "host"),
    "port": ("server", "port"),
    "store": ("store", "file"),  # or ("store", "url"): see `_store_path`
    "keys": ("server", "keys_file"),
    "clock": ("clock",),
    "mode": ("mode",),
    "preset": ("preset",),
}
"""Command-line flag -> key in the file. Its environment variable is `REGIME_` and the flag in capitals."""


def load(
    file: str | None = None, *, flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Return the settings, validated to the last option of the last rule.

    `flags` are command-line values (None where not given). Raises `OperatorError` with one sentence.
    """
    env = os.environ if environ is None else environ
    file = file or env.get(f"{ENV_PREFIX}CONFIG")
    mapping = {} if file is None else _read(file)
    for flag, path in FLAGS.items():
        given = None if flags is None else flags.get(flag)
        if given is None and (text := env.get(f"{ENV_PREFIX}{flag.upper()}")) is not None:
            given = _number(text) if flag == "port" else text
        if given is not None:
            if flag == "store":
                path = _store_path(mapping, given)
            node = mapping
            for part in path[:-1]:
                node = node.setdefault(part, {})
            node[path[-1]] = given
    return from_toml(mapping, source=file or "settings")


def _store_path(mapping: dict[str, Any], given: Any) -> tuple[str, ...]:
    """Return the key that a flag's store belongs to; the other one, if the file has it, no longer counts."""
    key, other = ("url", "file") if is_url(str(given)) else ("file", "url")
    if isinstance(section := mapping.get("store"), dict):
        section.pop(other, None)
    return ("store", key)


def from_toml(mapping: Mapping[str, Any], *, source: str) -> Settings:
    """Build settings from a parsed file: the engine's keys stand at the top level, the service's in sections."""
    engine = {key: value for key, value in mapping.items() if key not in _SERVICE_KEYS}
    known = {*_SERVICE_KEYS, *EngineConfig.__struct_fields__}
    for key in engine:
        if key not in known:
            raise OperatorError(f"{source}: unknown key `{key}`{nearest(key, known)}")
    sections: dict[str, Any] = {
        name: from_mapping(mapping[name], kind, source=f"{source} [{name}]")
        for name, kind in _SERVICE_KEYS.items()
        if name in mapping
    }
    store = mapping.get("store", {})
    if store.get("url") and "file" in store:
        raise OperatorError(f"{source} [store]: `file` and `url` both say where the store is; keep the one you mean")
    for key, wrong in (("file", is_url(store.get("file", ""))), ("url", not is_url(store.get("url") or "postgres://"))):
        if wrong:
            raise OperatorError(
                f"{source} [store]: a URL (postgresql://...) belongs to `url`, a file to `file`; see `{key}`"
            )
    config = from_mapping(engine, EngineConfig, source=source)
    try:
        build_rules(config)
        build_detectors(config)
    except OperatorError as error:
        raise OperatorError(f"{source}: {error}") from None
    return Settings(engine=config, **sections)


def own_key() -> str | None:
    """Return the key that a command of ours bears when it asks a locked service (`REGIME_KEY`); None without one.

    From the environment only: a flag would stand in the list of processes for everybody to read.
    """
    return os.environ.get(f"{ENV_PREFIX}KEY", "").strip() or None


def child_environment() -> dict[str, str]:
    """Return what a process of ours needs of the environment to run at all; whatever else stands there stays here."""
    names = ("DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
    return {name: os.environ[name] for name in names if name in os.environ}


def _read(file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(file).read_text("utf-8"))
    except FileNotFoundError:
        raise OperatorError(f"the config file {file} does not exist") from None
    except OSError as error:
        raise OperatorError(f"the config file {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise OperatorError(f"the config file {file} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise OperatorError(f"the config file {file} is not valid TOML: {error}") from None


def _number(text: str) -> int | str:
    return int(text) if text.strip().isdigit() else text
