"""What rows of every store have in common: their checksums, and the epoch (a ULID)."""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any


def new_ulid(now_ms: int, entropy: bytes) -> str:
    """Return a ULID: 48 bits of time and 80 of `entropy`, as 26 letters that sort by time.

    >>> new_ulid(1_469_918_176_385, bytes(10))
    '01ARYZ6S410000000000000000'
    """
    number = now_ms << 80 | int.from_bytes(entropy[:10], "big")
    return "".join("0123456789ABCDEFGHJKMNPQRSTVWXYZ"[number >> shift & 31] for shift in range(125, -1, -5))


def epoch_after(old: str, now_ms: int) -> str:
    """Return a new epoch that sorts after `old`, also where the clock stands in the past: clients ignore older ones."""
    letters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    old_ms = 0
    for letter in old[:10]:
        old_ms = old_ms << 5 | max(letters.find(letter), 0)
    return new_ulid(max(now_ms, old_ms + 1), os.urandom(10))


def checksum(*parts: int | str | bytes) -> bytes:
    """Return the checksum of a row. Lengths are part of it, so that nothing can move from one column to the next."""
    raw = [
        b"%d" % part if isinstance(part, int) else part.encode() if isinstance(part, str) else part for part in parts
    ]
    digest = hashlib.sha256(b" ".join([b"%d" % len(part) for part in raw]))
    for part in raw:
        digest.update(part)
    return digest.digest()[:16]


def event_checksum(seq: int, recorded_ms: int, kind: str, source_key: bytes, body: bytes) -> bytes:
    """Return `checksum` of an event's row; written out, because every event waits for it."""
    row = b"%d%d%b%b" % (seq, recorded_ms, kind.encode(), source_key)
    size = len(source_key)
    lengths = b"%d %d %d %d %d" % (len(str(seq)), len(str(recorded_ms)), len(kind), size, len(body))
    digest = hashlib.sha256(lengths + row)
    digest.update(body)
    return digest.digest()[:16]


def letter_parts(*parts: Any) -> tuple[Any, ...]:
    """Return what the checksum of a dead letter is of; what is not known yet is `open`."""
    return tuple("open" if part is None else part for part in parts)


def matches(sha: object, *parts: Any) -> bool:
    """Whether `sha` is the checksum of these parts, whatever they have become."""
    try:
        return sha == checksum(*parts)
    except TypeError:  # a flipped bit may also change the type of a column
        return False


def is_url(where: str) -> bool:
    """Whether a store's place is a server's URL, not the name of a file.

    >>> is_url("postgresql://bot@db/regime"), is_url("regimegate.db")
    (True, False)
    """
    return where.startswith(("postgresql://", "postgres://"))


def masked(where: str) -> str:
    """Return a store's place without its secrets, for messages. Rather too much is hidden than too little.

    >>> masked("postgresql://bot:pa@ss/word@db:5432/regime?sslpassword=x&sslmode=require")
    'postgresql://bot:***@db:5432/regime?sslpassword=***&sslmode=require'
    >>> masked("regimegate.db")
    'regimegate.db'
    """
    if not is_url(where):
        return where
    where = re.sub(r"(?is)([?&](?:ssl)?password=)[^&]*", r"\1***", where)
    return re.sub(r"(?s)(://[^:@]*):.*@", r"\1:***@", where)
