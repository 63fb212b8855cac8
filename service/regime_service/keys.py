"""Keys: who may look, who may send, who may command.

    rgk_<id>_<secret>       what a bot holds: 256 bits of chance behind an id that may be seen by anybody
    <store>.keys.json       what we hold: id, name, scopes, SHA-256 of the whole key, when made, when revoked

Rules
-----
1. A key is shown once, when it is made. Kept is its SHA-256: from 256 bits of chance nothing is learned by guessing, so
   it needs no salt and no slow hash, and a request costs one SHA-256 and one comparison in constant time.
2. Scopes are steps: `read` looks, `ingest` sends and looks (a bot), `admin` does everything.
3. No file, or a file without any key: no keys, the service is open (and will only listen on loopback). A revoked key
   still counts as one: revoking the last key locks the door, it does not open it.
4. A running service looks at the file once a second at the most, and reads it when it has changed. A file that was
   there and is gone, is damaged, or may be written by others lets nobody in until it is mended: `fault` says why.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, get_args

import msgspec
from msgspec import Meta

from regime.errors import OperatorError

log = logging.getLogger("regimegate")

AccessScope = Literal["read", "ingest", "admin"]
SCOPES: tuple[AccessScope, ...] = get_args(AccessScope)
"""Each holds what stands before it."""
PREFIX = "rgk_"
TOKEN_LENGTH = 56
KEYS_MAX = 1000
"""Keys in one file, revoked ones included: bounds what is held per key elsewhere."""
FILE_BYTES_MAX = 1024 * 1024
LOOK_EVERY_S = 1.0
"""How long a revoked key may still be answered."""

_HOLDERS: dict[AccessScope, frozenset[AccessScope]] = {scope: frozenset(SCOPES[i:]) for i, scope in enumerate(SCOPES)}
_TOKEN = re.compile(r"rgk_([a-z2-7]{8})_[A-Za-z0-9_-]{43}")
_ANY_OF_TOKEN = re.compile(r"rgk_([a-z2-7]{8})_[A-Za-z0-9_-]+")
"""A key, or what is left of one: whoever quotes a text cuts it short first."""
_NOBODY = bytes(32)


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept of one key; times are UTC as in 2025-11-21T16:00:00Z, `revoked` is None while it holds."""

    id: Annotated[str, Meta(pattern="^[a-z2-7]{8}$")]
    name: Annotated[str, Meta(min_length=1, max_length=128)]
    scopes: Annotated[list[AccessScope], Meta(min_length=1, max_length=3)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    created: str
    revoked: str | None = None

    def allows(self, scope: AccessScope) -> bool:
        """Whether the key opens what needs `scope`.

        >>> Key(id="aaaaaaaa", name="bot", scopes=["ingest"], sha256="0" * 64, created="").allows("read")
        True
        """
        return not _HOLDERS[scope].isdisjoint(self.scopes)


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: Literal[1] = 1
    keys: list[Key] = []


class _Known(NamedTuple):
    key: Key
    digest: bytes


def redact(text: str) -> str:
    """Return `text` with every key in it, and every beginning of one, cut down to its id.

    >>> redact("/x?rgk_abcdefgh_" + "s" * 43)
    '/x?rgk_abcdefgh_***'
    """
    return _ANY_OF_TOKEN.sub(r"rgk_\1_***", text) if PREFIX in text else text


def holds_key(text: str) -> bool:
    """Whether a key stands in `text`."""
    return PREFIX in text and _TOKEN.search(text) is not None


class RedactingFormatter(logging.Formatter):
    """Writes log lines with no key in them, wherever it came from (a message, the text of an exception)."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class KeyRing:
    """The keys of a running service, kept up with the file.

    Parameters
    ----------
    path
        The file; it need not exist.
    clock
        Monotonic seconds.

    Raises `OperatorError` where the file exists and cannot be used.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._seen = _signature(path)
        self._known = _known(read(path))
        self._fault: str | None = None
        self.revision = 0
        """Another one after every change of the keys: what was found before counts no more."""
        self._look_s = clock() + LOOK_EVERY_S

    def look(self) -> None:
        """Read the file again if it has changed. Costs a comparison, and once a second a `stat`."""
        now_s = self._clock()
        if now_s < self._look_s:
            return
        self._look_s = now_s + LOOK_EVERY_S
        seen = _signature(self.path)
        if seen == self._seen:
            return
        self._seen = seen
        self.revision += 1
        before, fault = self._known, self._fault
        try:
            self._known, self._fault = _known(read(self.path)), None
            if before and not self._known:
                self._known = before
                self._fault = f"the keys file {self.path} is gone, or holds no key any more"
        except OperatorError as error:
            self._fault = str(error)
        if self._fault is not None:
            log.error("nobody is let in until this is mended: %s", self._fault)
        elif fault is not None or before != self._known:
            log.warning("the keys file was read again: %d keys, %d of them revoked", len(self._known), self._revoked())

    @property
    def open(self) -> bool:
        """Whether there are no keys, so that everybody is let in."""
        return not self._known and self._fault is None

    @property
    def fault(self) -> str | None:
        """Why nobody is let in, as a sentence; None while all is well."""
        return self._fault

    @property
    def usable(self) -> bool:
        """Whether there is a key that somebody could use."""
        return len(self._known) > self._revoked()

    def find(self, token: str) -> Key | None:
        """Return the key that `token` is, revoked or not; None for any other text. One SHA-256, constant time."""
        if len(token) != TOKEN_LENGTH:
            return None
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        known = self._known.get(token[4:12])
        # Somebody who guesses an id learns nothing from how long the answer takes.
        same = hmac.compare_digest(digest, _NOBODY if known is None else known.digest)
        return known.key if same and known is not None else None

    def by_id(self, key_id: str) -> Key | None:
        """Return the key of that id, revoked or not; None where there is none. It proves nothing of who asks."""
        known = self._known.get(key_id)
        return None if known is None else known.key

    def _revoked(self) -> int:
        return sum(known.key.revoked is not None for known in self._known.values())


# --- the file -------------------------------------------------------------------------------------------------------


def read(path: Path) -> list[Key]:
    """Return the keys of a file; none where it does not exist. Raises `OperatorError` where it cannot be used."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            raw = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OperatorError(f"the keys file {path} cannot be read: {error.strerror}") from None
    if mode & 0o022:
        raise OperatorError(
            f"the keys file {path} may be written by others (mode {mode:04o}), who could add a key of their own: look "
            f"through `regime keys list`, then chmod 600 it"
        )
    if mode & 0o044:
        log.warning("the keys file %s may be read by others (mode %04o); chmod 600 it", path, mode)
    if len(raw) > FILE_BYTES_MAX:
        raise OperatorError(f"the keys file {path} is larger than {FILE_BYTES_MAX} bytes, so it is no keys file")
    try:
        keys = msgspec.json.decode(raw, type=_File).keys
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise OperatorError(f"the keys file {path} is damaged: {redact(str(error))}. Restore it, or delete it and make "
                            "new keys") from None  # fmt: skip
    if len({key.id for key in keys}) != len(keys):
        raise OperatorError(f"the keys file {path} holds two keys with the same id; delete one of them")
    return keys


def create(path: Path, *, name: str, scopes: Sequence[AccessScope]) -> tuple[Key, str]:
    """Make a key, write what is kept of it, and return it with the text that is shown once.

    Raises `OperatorError` where the file cannot be read or written, holds `KEYS_MAX` keys, or the name is none.
    """
    if not name.isprintable() or not 0 < len(name) <= 128 or holds_key(name):
        raise OperatorError("the name of a key is 1 to 128 printable characters, for people: which bot, which machine")
    with _edited(path) as keys:
        if len(keys) >= KEYS_MAX:
            raise OperatorError(f"the keys file {path} holds {KEYS_MAX} keys; delete revoked ones from it")
        taken = {key.id for key in keys}
        key_id = next(made for made in iter(_new_id, "") if made not in taken)
        token = f"{PREFIX}{key_id}_{secrets.token_urlsafe(32)}"
        key = Key(
            id=key_id, name=name, scopes=sorted(set(scopes), key=SCOPES.index), created=_now(),
            sha256=hashlib.sha256(token.encode()).hexdigest(),
        )  # fmt: skip
        keys.append(key)
    return key, token


def revoke(path: Path, key_id: str) -> Key:
    """Mark a key as revoked and return it; one that was already stays as it was. Raises `OperatorError` for no key."""
    # Whoever pastes the whole key means that key.
    found = _TOKEN.fullmatch(key_id)
    key_id = found[1] if found else key_id
    with _edited(path) as keys:
        for i, key in enumerate(keys):
            if key.id == key_id:
                keys[i] = key if key.revoked is not None else msgspec.structs.replace(key, revoked=_now())
                return keys[i]
        raise OperatorError(f"no key has the id {key_id[:64]!r} in {path}; `regime keys list` shows them")


@contextlib.contextmanager
def _edited(path: Path) -> Iterator[list[Key]]:
    """The keys, to be changed; written back whole, by renaming, so that nobody ever reads half a file."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise OperatorError(f"the folder {path.parent} of the keys file cannot be opened: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # Two at once would lose one's change.
        keys = read(path)
        yield keys
        _write(path, folder, msgspec.json.format(msgspec.json.encode(_File(keys=keys)), indent=2) + b"\n")
    except OSError as error:
        raise OperatorError(f"the keys file {path} cannot be written: {error.strerror}") from None
    finally:
        os.close(folder)


def _write(path: Path, folder: int, raw: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "wb") as out:
            if os.geteuid() == 0:
                # Made with sudo it still has to be read by the service, whose folder this is.
                owner = path.stat() if path.exists() else os.fstat(folder)
                os.fchown(out.fileno(), owner.st_uid, owner.st_gid)
            out.write(raw)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
        os.fsync(folder)
    finally:
        temporary.unlink(missing_ok=True)


def _known(keys: Sequence[Key]) -> dict[str, _Known]:
    return {key.id: _Known(key, bytes.fromhex(key.sha256)) for key in keys}


def _signature(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode)


def _new_id() -> str:
    return base64.b32encode(secrets.token_bytes(5)).decode().lower()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


__all__ = [
    "KEYS_MAX", "LOOK_EVERY_S", "PREFIX", "SCOPES", "AccessScope", "Key", "KeyRing", "RedactingFormatter", "create",
    "holds_key", "read", "redact", "revoke",
]  # fmt: skip
