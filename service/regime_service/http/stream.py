"""Answers pushed as they change: `GET /v1/stream`, server-sent events.

    thresholds   one stream's newest answer        lease     everything sent so far still stands
    closing      why the service ends the stream   : ...     the line is alive

Rules
-----
1. Sent is what stands, not what happened: a reader that is slow gets the newest of each stream and never what was
   overtaken (`GET /v1/decisions` has all of it). So what waits for one reader is bounded by the number of streams.
2. Every change of a stream, by the measure of its ETag, gets the next number; a reader is sent changes in the order of
   their numbers. So one number, the cursor, says what a reader has seen. It counts for this process and this filter
   alone: any other cursor means "seen nothing", which costs a few answers and never hides one.
3. A lease is sent when nothing waits, and only after the board was looked at in the same breath: it never renews an
   answer that was overtaken. It says how old the stream is by a monotonic clock; a reader counts from the start of its
   request, so that what lay in a buffer is not taken for fresh.
4. No word is sent while the service could not answer a GET (store failed, keys file damaged), or to a key that was
   revoked: such a stream is closed with the reason, half a second later at the most.

The board calls `_posted` in the writer's thread; everything else happens in the event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from regime.errors import Unavailable
from regime.events import StreamKey
from regime_service.http.answers import Answers
from regime_service.http.exchange import Header, Request, Response, Send
from regime_service.http.problems import problem
from regime_service.http.schema import Closing, Lease
from regime_service.ports import Ports

TICK_S = 0.5
"""How often it is looked whether a stream must be closed, or is owed a sign of life."""
BEAT_S = 5.0
"""After so long without a word a comment is sent."""
LEASE_S = 15.0
"""How often the leases are renewed: three may get lost before an answer of 60 s runs out."""
CHUNK_BYTES = 32 * 1024
"""Sent at once, then it is waited until the reader has taken most of it."""
MATCHED_KEPT = 1024
"""Filters whose streams are remembered between two changes."""
RETRY_MS = 2_000
"""What a reader is told to wait before it comes back."""

_CURSOR = re.compile(r"([0-9a-f]{8}\.[0-9a-f]{8})\.([0-9]{1,16})")
_HEADERS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),  # nginx would keep events back until it has a few kilobytes of them.
)


class Wanted(NamedTuple):
    """Which streams a reader asked for; None is all."""

    model: str | None
    symbols: frozenset[str] | None
    timeframe: str | None

    def takes(self, key: StreamKey) -> bool:
        """Whether a stream is among them."""
        return (
            (self.model is None or self.model == key.model)
            and (self.symbols is None or key.symbol in self.symbols)
            and (self.timeframe is None or self.timeframe == key.timeframe)
        )

    def digest(self) -> str:
        """Eight characters that are the same for the same filter."""
        parts = [self.model, None if self.symbols is None else sorted(self.symbols), self.timeframe]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:8]


class _Change(NamedTuple):
    """The newest change of a stream: its ETag since then, and its number."""

    etag: bytes
    number: int


class Push:
    """All event streams of the service.

    Parameters
    ----------
    ports
        The rest of the house.
    answers
        Spells decisions.
    shut_to
        Says why the holder of a key id (None: nobody's) would not be let in any more; None where he would.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        ports: Ports,
        answers: Answers,
        *,
        shut_to: Callable[[str | None], str | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ports = ports
        self.answers = answers
        self.clock = clock
        self.last = 0
        """Number of the newest change."""
        self._shut_to = shut_to
        self._home = secrets.token_hex(4)
        self._epoch = ports.epoch()
        self._changes: dict[StreamKey, _Change] = {}
        self._matched: dict[Wanted, tuple[int, list[StreamKey]]] = {}
        self._matched_at = 0
        """What filters match, up to which change; readers that are owed a lease at once ask for the same."""
        self._readers: dict[_Reader, None] = {}
        self._closed: str | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        """Woken after a post; None while nobody reads."""
        self._woken = False
        self._touched: dict[StreamKey, None] = {}
        """Streams that were posted since the last look; guarded by the lock."""
        ports.board.listen(self._posted)
        self._posted(list(ports.board.now.decisions))

    # --- for the routes and the server ---

    def open(self, request: Request, wanted: Wanted) -> _Reader | Response:
        """Return a stream for `request`, or what refuses it. It counts as open from its `run` on."""
        if self._closed is not None:
            raise Unavailable(f"{self._closed}; no stream is opened any more", retry_after_s=5)
        if len(self._readers) >= self.ports.push_max:
            raise Unavailable(
                f"{self.ports.push_max} event streams are open already (`push_max`). Poll /v1/thresholds meanwhile, or "
                "ask for several symbols over one stream.",
                retry_after_s=5,
            )
        key_id = request.key_id
        if key_id is not None and sum(r.key_id == key_id for r in self._readers) >= self.ports.push_key_max:
            return problem(
                429,
                f"The key {key_id} has {self.ports.push_key_max} event streams open (`push_key_max`). Close one, or "
                "ask for several symbols over one stream. Polling /v1/thresholds is open to it.",
                headers={"Retry-After": "5"},
                kind="streams",
            )
        self.look()
        home = f"{self._home}.{wanted.digest()}"
        return _Reader(self, request, wanted, home, self._seen(request.values(b"last-event-id"), home))

    def close(self, reason: str, *, status: int = 503) -> None:
        """End all streams, telling each why, and open none any more."""
        self._closed = reason
        for reader in list(self._readers):
            reader.close(status, reason)

    # --- what changed ---

    def look(self) -> None:
        """Take note of what was posted since the last look, and hand it to whoever wants it."""
        with self._lock:
            touched, self._touched, self._woken = self._touched, {}, False
        board, epoch = self.ports.board.now.decisions, self.ports.epoch()
        if epoch != self._epoch:
            self._epoch, touched = epoch, dict.fromkeys(board)
        for key in touched:
            etag = self.answers.spelled(key, board[key]).etag
            known = self._changes.get(key)
            if known is not None and known.etag == etag:
                continue
            self.last += 1
            self._changes[key] = _Change(etag, self.last)
            for reader in self._readers:
                if reader.wanted.takes(key):
                    reader.note(key)

    def number(self, key: StreamKey) -> int:
        """Return the number of a stream's newest change."""
        return self._changes[key].number

    def standing(self, wanted: Wanted) -> Iterator[StreamKey]:
        """Yield the streams of a filter."""
        return (key for key in self._changes if wanted.takes(key))

    def lease(self, wanted: Wanted) -> tuple[int, int]:
        """Return how many streams a filter matches, and the milliseconds for which all their answers are good."""
        if self._matched_at != self.last or len(self._matched) > MATCHED_KEPT:
            self._matched, self._matched_at = {}, self.last
        found = self._matched.get(wanted)
        board, spelled = self.ports.board.now.decisions, self.answers.spelled
        if found is None:
            keys = list(self.standing(wanted))
            # Whether a lease may run down (an operator's word, data that grow old) changes with a version only.
            may = [k for k in keys if (s := spelled(k, board[k])).polled is None or s.old_at_ms is not None]
            found = self._matched[wanted] = len(keys), may
        count, running = found
        return count, self.answers.shortest_lease([spelled(key, board[key]) for key in running])

    def _seen(self, values: list[str], home: str) -> int:
        """The change up to which somebody who comes back has seen everything; 0 where that is not known."""
        found = _CURSOR.fullmatch(values[0]) if len(values) == 1 else None
        if found is None or found[1] != home or int(found[2]) > self.last:
            return 0
        return int(found[2])

    def _posted(self, keys: list[StreamKey]) -> None:
        with self._lock:
            self._touched.update(dict.fromkeys(keys))
            loop = None if self._woken else self._loop
            self._woken = self._woken or loop is not None
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._awake)

    def _awake(self) -> None:
        # Before anything is pushed: what cannot be answered to a GET is not pushed either.
        if not self._faulty():
            self.look()

    # --- readers ---

    def joined(self, reader: _Reader) -> None:
        """A stream begins."""
        self._readers[reader] = None
        self.ports.traffic.streaming(len(self._readers))
        if self._ticker is None:
            self._loop = asyncio.get_running_loop()
            self._ticker = self._loop.create_task(self._tick())
            # What was posted between its opening and now woke nobody.
            self._loop.call_soon(self._awake)

    def left(self, reader: _Reader) -> None:
        """A stream has ended."""
        del self._readers[reader]
        self.ports.traffic.streaming(len(self._readers))
        if not self._readers and self._ticker is not None:
            self._ticker.cancel()
            self._ticker = self._loop = None

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if self._faulty():
                continue
            shut = {key_id: self._shut_to(key_id) for key_id in {reader.key_id for reader in self._readers}}
            now_s = self.clock()
            for reader in list(self._readers):
                if (reason := shut[reader.key_id]) is not None:
                    reader.close(401, reason)
                else:
                    reader.remind(now_s)

    def _faulty(self) -> bool:
        """Close every stream where the service cannot answer; whoever comes back is told the same by a 503."""
        try:
            fault = self.ports.fault()
        except Exception as error:
            fault = f"the service does not know how it is ({type(error).__name__})"
        if fault is None:
            return False
        for reader in list(self._readers):
            reader.close(503, fault)
        return True


class _Reader:
    """One open stream."""

    def __init__(self, push: Push, request: Request, wanted: Wanted, home: str, seen: int) -> None:
        self.key_id = request.key_id
        self.wanted = wanted
        self._push = push
        self._request = request
        self._home = home.encode()
        self._began_s = self._spoke_s = push.clock()
        self._leased_s = float("-inf")  # The first lease follows what stands at the beginning.
        self._waiting: dict[StreamKey, None] = dict.fromkeys(
            key for key in push.standing(wanted) if push.number(key) > seen
        )
        self._overtaken = 0
        self._gone = False
        self._last_words: bytes | None = None
        self._wake = asyncio.Event()

    async def run(self, send: Send, headers: tuple[Header, ...]) -> None:
        """Send events until the reader hangs up, or the stream is closed."""
        self._push.joined(self)
        watch = asyncio.create_task(self._watch())
        try:
            await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *headers]})
            await self._say(send, b": regimegate\nretry: %d\n\n" % RETRY_MS)
            while not self._gone and self._last_words is None:
                await self._catch_up(send)
                self._wake.clear()
                if not self._waiting and not self._gone and self._last_words is None:
                    await self._wake.wait()
            if not self._gone:
                await send({"type": "http.response.body", "body": self._last_words or b"", "more_body": False})
        finally:
            watch.cancel()
            self._push.left(self)

    def note(self, key: StreamKey) -> None:
        """A stream has changed."""
        self._overtaken += key in self._waiting
        self._waiting[key] = None
        self._wake.set()

    def remind(self, now_s: float) -> None:
        """Wake the stream if it owes a lease or a sign of life."""
        if now_s - self._leased_s >= LEASE_S or now_s - self._spoke_s >= BEAT_S:
            self._wake.set()

    def close(self, status: int, reason: str) -> None:
        """End the stream with a reason, as soon as the reader takes what was sent before."""
        if self._last_words is None:
            self._last_words = _event(b"closing", msgspec.json.encode(Closing(status=status, reason=reason)))
            self._wake.set()

    async def _watch(self) -> None:
        await self._request.gone()
        self._gone = True
        self._wake.set()

    async def _catch_up(self, send: Send) -> None:
        """Send what waits; then, if it is time, that all of it stands."""
        # In the order of the changes, or the cursor would claim what was not sent yet.
        batch = sorted((self._push.number(key), key) for key in self._waiting)
        self._waiting = {}
        chunk, size, sent = list[bytes](), 0, 0
        for number, key in batch:
            if self._push.number(key) != number:
                continue  # Overtaken while an earlier chunk was under way; it waits again, with its new number.
            chunk.append(self._thresholds(key, number))
            size += len(chunk[-1])
            sent += 1
            if size >= CHUNK_BYTES:
                await self._say(send, b"".join(chunk))
                chunk, size = [], 0
                if self._gone or self._last_words is not None:
                    break
        if chunk:
            await self._say(send, b"".join(chunk))
        if sent or self._overtaken:
            self._push.ports.traffic.pushed(sent, self._overtaken)
            self._overtaken = 0
        await self._renew(send)

    async def _renew(self, send: Send) -> None:
        now_s = self._push.clock()
        if now_s - self._leased_s >= LEASE_S:
            self._push.look()
            if not self._waiting and self._last_words is None and not self._gone:
                self._leased_s = now_s
                await self._say(send, self._lease())
        elif now_s - self._spoke_s >= BEAT_S:
            await self._say(send, b":\n\n")

    def _thresholds(self, key: StreamKey, number: int) -> bytes:
        push = self._push
        answer = push.answers.polled(push.answers.spelled(key, push.ports.board.now.decisions[key]))
        # One member more than `T`: how old the stream was when this was said.
        data = answer[:-1] + b',"elapsed_ms":%d}' % self._elapsed_ms()
        return _event(b"thresholds", data, self._cursor(number))

    def _lease(self) -> bytes:
        push = self._push
        streams, valid_for_ms = push.lease(self.wanted)
        lease = Lease(
            server_time_ms=push.ports.now_ms(), elapsed_ms=self._elapsed_ms(), epoch=push.ports.epoch(),
            valid_for_ms=valid_for_ms, streams=streams,
        )  # fmt: skip
        return _event(b"lease", msgspec.json.encode(lease), self._cursor(push.last))

    def _cursor(self, number: int) -> bytes:
        return b"%b.%d" % (self._home, number)

    def _elapsed_ms(self) -> int:
        return int((self._push.clock() - self._began_s) * 1000)

    async def _say(self, send: Send, text: bytes) -> None:
        await send({"type": "http.response.body", "body": text, "more_body": True})
        self._spoke_s = self._push.clock()


def _event(name: bytes, data: bytes, cursor: bytes | None = None) -> bytes:
    return b"event: %b\n%bdata: %b\n\n" % (name, b"" if cursor is None else b"id: %b\n" % cursor, data)


__all__ = ["BEAT_S", "LEASE_S", "TICK_S", "Push", "Wanted"]
