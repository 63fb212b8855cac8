"""Wiring: settings in, a running service out; each thing started is a named clean-up, last in, first out."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import itertools
import logging
import math
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import IO, Any, Literal
from zoneinfo import ZoneInfo

import msgspec
import uvicorn

from regime.config import EngineConfig
from regime.decision import Decision
from regime.edge import Edge
from regime.engine import Engine, find_limits
from regime.errors import CallerError, CorruptionError, OperatorError, RegimeError, Unavailable
from regime.events import SIDES, AnyEvent, Command, Recalibrated, Side, StreamKey
from regime.fleet import Fleet
from regime.outcomes import Outcomes, wilson_interval, win_rate, wins
from regime.reference import Reference
from regime.rules import Evidence
from regime.watch import Watch, top_features
from regime_service.alerts import Alert, make_channel
from regime_service.alerts.outbox import Figures, Outbox, Quiet, Way, Word, shout
from regime_service.alerts.words import Words, of_service
from regime_service.apart import reference_apart
from regime_service.archive.filling import Archiver
from regime_service.board import Board
from regime_service.clock import Clock, GuardedClock
from regime_service.http import operations
from regime_service.http.alerts import install as install_alerts
from regime_service.http.api import Application, create_app
from regime_service.http.connections import Patience, PatientServer, protocol
from regime_service.http.lease import lease_ms
from regime_service.keys import KeyRing
from regime_service.metrics import Counters, RegimeCollector, Traffic, exposition
from regime_service.page import mount
from regime_service.page.history import Histories
from regime_service.page.routes import Page
from regime_service.page.sessions import Sessions
from regime_service.ports import Health, Ports, Receipt
from regime_service.retention import LOOK_EVERY_S, MEASURE_EVERY_S, StoreSize, measure, warnings
from regime_service.runners.embedded import EmbeddedRunner, name_limits
from regime_service.runners.recovery import RecoveryFailed
from regime_service.runners.rehearsal import rehearse
from regime_service.settings import Settings, channel_secrets, child_environment
from regime_service.stores import DeadLetter, StoreFailed, StoreUnreachable, group
from regime_service.stores.opening import open_store

log = logging.getLogger("regimegate")

EXIT_FAILED = 1
FAREWELL_S = 2.0
"""How long a service whose store failed keeps answering 503 with the reason before it ends itself."""


STUCK_S = 0.8
"""How long the writer may stand still before nobody is told anything any more: while it hangs, nothing goes stale. It
costs little to be wrong: bots keep the answer they hold until its lease is over, and nothing is ended."""
REHEARSE_FROM = 2
"""Starts in a row that did not come to an end, after which the next one is tried in a process of its own first."""
STARTS_MAX = 8
"""Starts in a row after which not a single event was judged: then another one would end like them."""
WATCH_EVERY_S = 0.25
"""How often it is looked whether the writer thread lives."""
UNREACHABLE_S = 10.0
"""How long a service that was started without its database says so, until it ends and the supervisor tries again."""
LOOK_S, GLANCE_S = 2.0, 0.2
"""How long a look at the engines waits for the writer; a scrape, which has older figures to show, waits less."""
TELL_STUCK_S = 10.0
"""How long the writer may stand still before operators are told: bots hold their answers for longer than that."""
SHOUT_AGAIN_S = 3600.0
"""How soon the same failure of the service is told again: a supervisor starts it anew every few seconds."""
LAST_TRY_S = 5.0
"""How long a service that is stopped waits for a delivery under way: cut off, it would be repeated after the start."""
SHOUT_WAIT_S = 1.0
"""How long the end of a failed service waits for its last words to be delivered."""


class Service:
    """One installation: store, runner, board, HTTP application.

    What cannot start does not end: it answers 503 with the reason, so that a supervisor's restarts end there and not in
    a loop. That goes for a store that cannot be written or read, for a log that cannot be judged, and for starts that
    died again and again. A database that does not answer may be there soon: then it ends after a while (`unreachable`),
    for no connection is ever opened again in one life. What only a person can mend (another service holds the file, a
    newer file, a wrong setting) raises `OperatorError`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        deliver: bool = True,
    ) -> None:
        """`deliver` False: alerts are written down and left to the next service; its secrets are not needed."""
        self.settings = settings
        self.config: EngineConfig = settings.engine
        self.board = Board()
        self.counters = Counters()
        self.traffic = Traffic()
        self.keys = KeyRing(settings.keys_path())
        self._clock: Clock = clock or GuardedClock()
        self._now_ms = self._clock.now_ms
        self._runner: EmbeddedRunner | None = None
        self._starting: EmbeddedRunner | None = None
        self._stopped = False
        self._epoch = ""
        self._cannot_start: str | None = None
        self.unreachable = False
        self._store: Any = None
        self._archiver: Archiver | None = None
        self._events = 0
        self.size = StoreSize(0, 0, None)
        self._features: dict[StreamKey, tuple[tuple[str, float], ...]] = {}
        self.on_failure: Callable[[str], None] = lambda reason: None
        self._deliver = deliver
        self._ways: list[Way] = []
        self._outbox: Outbox | None = None
        self._shouting: list[threading.Thread] = []
        self._stuck = self._behind = False

    def start(self) -> None:
        """Open the store, restore the state, begin to take events."""
        self.open()
        self.recover()

    def open(self) -> None:
        """Open the store: what a person must mend is said before anything else is done."""
        if self._deliver:
            self._ways = ways(self.settings)
        try:
            self._store = open_store(self.settings.store.where)
            self._epoch, self._events = self._store.epoch, self._store.last_seq()
        except (StoreFailed, CorruptionError) as error:
            self._refuse(error)

    def recover(self) -> None:
        """Restore the state and begin to take events; blocks as long as that takes. `health` says how far it is.

        Does nothing where that was done, or cannot be.
        """
        if self._cannot_start is not None or self._runner is not None:
            return
        try:
            self._outbox = self._make_outbox()
            runner = EmbeddedRunner(
                self._store,
                self.config,
                self.board,
                self.counters,
                now_ms=self._now_ms,
                not_before=self._clock.not_before,
                queue_max=self.settings.server.queue_max,
                snapshot_every=self.settings.store.snapshot_every,
                snapshots=self._rehearsed(),
                on_failure=self._failed,
                alerts=self._outbox,
            )
            self._starting = runner
            if self._stopped:
                return
            runner.start()
            # What waits is read before anything is answered: who asks hears of it.
            if self._outbox is not None and self._deliver:
                self._outbox.start(self._ways)
            self._runner = runner
            self._keep_archive()
            self.look_after_store()
        except OperatorError:
            raise
        except Unavailable:
            return  # It was told to stop meanwhile.
        except Exception as error:
            self._refuse(error)

    def _keep_archive(self) -> None:
        folder = self.settings.archive_folder()
        if self.settings.archive.enabled and folder is not None:
            self._archiver = Archiver(self.settings.store.where, folder, every_s=self.settings.archive.every_s)
            self._archiver.start()

    def _rehearsed(self) -> bool:
        """Whether snapshots may be restored. Raises `RecoveryFailed` where this start would end as those before it."""
        unfinished = self._store.unfinished_starts
        if unfinished >= STARTS_MAX:
            raise RecoveryFailed(
                f"the last {unfinished} starts ended before a single event was judged, so this one judges nothing. "
                "Look into the log of the service for what ended them; mend it, stop this one and start it again"
            )
        if unfinished < REHEARSE_FROM:
            return True
        log.warning("the last %d starts did not come to an end; this one is rehearsed first", unfinished)
        where = self.settings.store.where
        death = rehearse(where, self.config)
        if death is not None and death.seq == 0:
            log.error("restoring the newest snapshot ends this program (%s): the log is replayed instead", death.how)
            death = rehearse(where, self.config, snapshots=False)
            if death is None:
                return False
        if death is not None:
            at = "reading the store" if death.seq is None else f"judging event {death.seq} of the log"
            raise RecoveryFailed(
                f"{at} ends this program ({death.how}), as it did in the last {unfinished} starts. Nothing is lost. Go "
                "back to the version or the configuration that could, give it more memory, or report this"
            )
        return True

    def _refuse(self, error: Exception) -> None:
        said = str(error) if isinstance(error, RegimeError) else f"it cannot start: {type(error).__name__}: {error}"
        self._cannot_start = said
        self.unreachable = isinstance(error, StoreUnreachable)
        log.critical("every request is answered with 503: %s", said, exc_info=not isinstance(error, RegimeError))
        self._shout(
            "RegimeServiceDown" if isinstance(error, StoreFailed | CorruptionError) else "RegimeCannotStart", said
        )

    def writer_failed(self) -> str | None:
        """Return why nothing can be written any more; None while all is well, and where nothing ever could be."""
        if self._runner is None:
            return None
        # The store itself, too: it may know that its server is gone before anything is written again.
        found: str | None = self._runner.failed or self._store.failed
        return found

    def look_after_store(self) -> list[str]:
        """Warn where the disk is short, or the log old or large. Nothing is ever deleted: a replay needs the log."""
        if not self.measure_store():
            return []
        said = warnings(self.size, self._now_ms())
        for sentence in said:
            log.warning("%s", sentence)
        return said

    def measure_store(self) -> bool:
        """Look at the store's size, for metrics; False where it cannot be looked at."""
        try:
            self.size = measure(self._store)
        except (OSError, StoreFailed, CorruptionError):
            return False  # The writer will find out what is wrong, and say it.
        return True

    def _failed(self, reason: str) -> None:
        self._shout("RegimeServiceDown", reason)
        self.on_failure(reason)

    def _make_outbox(self) -> Outbox | None:
        chosen = self.settings.alerts
        if not chosen.channels:
            return None
        if self.config.clock == "event" and not chosen.on_event_clock:
            log.warning(
                'alerts are off: with clock = "event" they would be about the past; on_event_clock = true under '
                "[alerts] turns them on"
            )
            return None
        minutes = chosen.quiet_minutes()
        return Outbox(
            self._store,
            [options.name for options in chosen.channels],
            Words(self._epoch, chosen.public_url, chosen.shadow_votes),
            decisions=lambda: self.board.now.decisions,
            now_ms=self._now_ms,
            # Event time has no relation to the hours that pass.
            repeat_after_ms=0 if self.config.clock == "event" else int(chosen.repeat_after_hours * 3_600_000),
            give_up_after_ms=int(chosen.give_up_after_hours * 3_600_000),
            quiet=None if minutes is None else Quiet(*minutes, ZoneInfo(chosen.timezone)),
            on_failure=lambda reason: self._shout("RegimeAlertsFailed", reason),
        )

    def look_for_trouble(self) -> None:
        """Tell operators when the writer hangs or the clock is wrong, and when that is over: nothing else would."""
        if self._runner is None or self.writer_failed() is not None:
            return
        wrong = self._clock_behind()
        if (wrong is not None) != self._behind:
            self._behind = wrong is not None
            self._shout("RegimeClockBehind", wrong or "it is right again", resolved=wrong is None)
        # What began is over when it answers again, and not when it merely hangs in something else.
        why = self._runner.stuck(STUCK_S if self._stuck else TELL_STUCK_S)
        if (why is not None) != self._stuck:
            self._stuck = why is not None
            self._shout("RegimeServiceStuck", why or "it moves again", resolved=why is None)

    def _shout(self, name: str, reason: str, *, resolved: bool = False) -> None:
        """Tell operators of our own failure, at once and not by the outbox: the store may be what failed."""
        if not self._ways or (self.config.clock == "event" and not self.settings.alerts.on_event_clock):
            return
        if not resolved and self._told_lately(f"{name} {reason}"):
            log.warning("operators were told of this within the last hour: %s", reason)
            return
        self._shouting += shout(self._ways, failure(name, reason, self._now_ms(), resolved=resolved))

    def _told_lately(self, what: str) -> bool:
        # The store cannot be asked. A small file beside it, best effort: where it cannot be written it is said again.
        path = self.settings.keys_path().with_suffix(".told")
        mark = hashlib.sha256(re.sub(r"\d+", "", what).encode("utf-8", "backslashreplace")).hexdigest()
        with contextlib.suppress(OSError, ValueError):
            if path.read_text("ascii") == mark and 0 <= time.time() - path.stat().st_mtime < SHOUT_AGAIN_S:
                return True
        with contextlib.suppress(OSError):
            path.write_text(mark, "ascii")
        return False

    def alerts_listed(self) -> dict[str, Any]:
        """Return the channels, what waits and what was given up; nothing where there are no alerts."""
        return {"channels": [], "waiting": [], "dead": []} if self._outbox is None else self._outbox.listed()

    def settle_alerts(
        self, action: Literal["retry", "drop"], ids: list[int], actor: str, reason: str, key_id: str | None
    ) -> None:
        """Send dead alerts again, or forget them; `CallerError` (404) where one of them is not dead."""
        word = Word(action=action, actor=actor, reason=reason, key_id=key_id, said_ms=self._now_ms())
        if self._outbox is None:
            raise CallerError(
                "The service that runs here has no alerts: no channel is configured, or they are off on event time. "
                "Nothing was changed.",
                status=404,
            )
        self._outbox.settle(ids, word)

    def alert_figures(self) -> dict[str, Figures]:
        """Return what metrics show of alerts, by channel."""
        return {} if self._outbox is None else self._outbox.figures()

    def stop(self) -> None:
        """Drain the queue, write a snapshot, close the store."""
        self.interrupt()
        if self._archiver is not None:
            self._archiver.stop()
        failed = self._cannot_start is not None or self.writer_failed() is not None
        if self._outbox is not None and self._deliver:
            self._outbox.stop(SHOUT_WAIT_S if failed else LAST_TRY_S)
        until_s = time.monotonic() + SHOUT_WAIT_S
        for thread in self._shouting:
            thread.join(max(0.0, until_s - time.monotonic()))
        if self._runner is not None:
            self._runner.stop()
        elif self._store is not None:
            # It was ended in order: the next start is a person's, and is to be tried.
            with contextlib.suppress(RegimeError), group(self._store):
                self._store.started()
            self._store.close()

    def interrupt(self) -> None:
        """End a `recover` that is under way in another thread, or is about to be."""
        self._stopped = True
        if self._starting is not None and self._runner is None:
            self._starting.interrupt()

    @property
    def runner(self) -> EmbeddedRunner:
        """The runner; raises `Unavailable` where the service could not start."""
        if self._runner is None:
            raise Unavailable(self._cannot_start or "the service is starting", retry_after_s=5)
        return self._runner

    def health(self) -> Health:
        """Whether it can answer and store."""
        depth = 0 if self._runner is None else self._runner.queue_depth
        reason = self.fault()
        return Health(reason is None, reason or "", depth, self.settings.server.queue_max)

    def fault(self) -> str | None:
        """Return why no answer can be given and nothing stored now; None while all is well."""
        runner = self._runner
        if runner is None:
            return self._cannot_start or self._how_far()
        return self.writer_failed() or self._clock_behind() or runner.stuck(STUCK_S)

    def _clock_behind(self) -> str | None:
        return self._clock.behind() if self.config.clock == "wall" else None

    def _how_far(self) -> str:
        done = 0 if self._starting is None else self._starting.recovered_seq
        if not done:
            return "the service is starting"
        return f"the service is starting: it judges its log anew, event {done:,} of {self._events:,}"

    def digest(self) -> str:
        """Return the digest of all streams' state."""
        return self.runner.digest()

    async def ingest(
        self,
        events: Sequence[AnyEvent],
        *,
        on_conflict: Literal["refuse", "keep"] = "refuse",
        references: dict[str, bytes] | None = None,
    ) -> Receipt:
        """Hand events to the writer; limits for a new reference are found first, beside it, for it takes seconds."""
        if references:
            events, references = await asyncio.to_thread(self._with_limits, events, references)
        return await self.runner.ingest(events, on_conflict=on_conflict, references=references)

    def _with_limits(
        self, events: Sequence[AnyEvent], references: dict[str, bytes]
    ) -> tuple[list[AnyEvent], dict[str, bytes]]:
        blobs, named = dict(references), []
        for event in events:
            if isinstance(event, Recalibrated) and event.reference_id in references:
                sample = Reference.from_bytes(references[event.reference_id])
                event, limits = name_limits(event, find_limits(event, sample, self.config))
                blobs |= limits
            named.append(event)
        return named, blobs

    def decisions(self, key: StreamKey, since_version: int, limit: int) -> list[Decision]:
        found: list[Decision] = self._store.decisions(key, since_version, limit)
        return found

    def bodies(self, source_keys: Sequence[str]) -> list[bytes]:
        """Return the events that stand in the log under these keys, as they were stored."""
        found: list[bytes] = self._store.bodies(source_keys)
        return found

    def reference(self, reference_id: str) -> bytes:
        """Return a reference as it was stored; `KeyError` where there is none."""
        found: bytes = self._store.reference(reference_id)
        return found

    @contextlib.contextmanager
    def _looking(self, wait_s: float | None = None) -> Iterator[Fleet]:
        # Not for ever: the writer holds the lock while a disk hangs, and the door must go on saying so.
        if not self.runner.lock.acquire(timeout=LOOK_S if wait_s is None else wait_s):
            raise Unavailable("the writer is busy; ask again", retry_after_s=5)
        try:
            yield self.runner.fleet
        finally:
            self.runner.lock.release()

    def dead_letters(self, closed: bool = False) -> list[DeadLetter]:
        """Return the events that made judging fail, oldest first; with `closed` those that are dealt with as well."""
        found: list[DeadLetter] = self._store.dead_letters(closed=closed) if self._store is not None else []
        return found

    def explain(self, key: StreamKey) -> dict[str, Any]:
        """Return the evidence behind the current answer of `key`; `KeyError` if there is no such stream."""
        with self._looking() as fleet:
            return explain(fleet.engine(key))

    def outcomes(self, key: StreamKey) -> dict[Side, Outcomes]:
        """Return what came of the signals of `key`, as many as are remembered; `KeyError` without such a stream."""
        with self._looking() as fleet:
            return {side: fleet.engine(key).outcomes(side) for side in SIDES}

    def overrides(self) -> dict[str, Command]:
        with self._looking() as fleet:
            return fleet.overrides()

    def has_model(self, model: str) -> bool:
        with self._looking() as fleet:
            return model in fleet.models

    def event_now_ms(self, model: str) -> int:
        decisions = self.board.now.decisions
        return max((d.as_of_ms for key, d in decisions.items() if key.model == model), default=0)

    def top_features(self, keys: Sequence[StreamKey]) -> Mapping[StreamKey, Sequence[tuple[str, float]]]:
        """Return the features of each stream that stand out most, as they were last where the writer is busy."""
        # Found when somebody looks, not with every event: it would cost a fifth of a step.
        with contextlib.suppress(Unavailable), self._looking(GLANCE_S) as fleet:
            found = {}
            for key in keys:
                # A detector may be the user's own. If it raises, judging says so; a scrape shows what it can.
                with contextlib.suppress(Exception):
                    found[key] = fleet.engine(key).top_features()
            self._features = found
        return self._features

    def http(self) -> Application:
        """Return the ASGI application."""
        hosts = {"127.0.0.1", "localhost", "::1", self.settings.server.host.lower(), *self.settings.server.hosts}
        collector = RegimeCollector(
            self.board,
            self.counters,
            health=self.health,
            features=self.top_features,
            clock_ms=lambda decision: decision.as_of_ms if self.config.clock == "event" else self._now_ms(),
            lease_ms=lambda decision, overrides: lease_ms(
                decision, overrides=overrides, clock=self.config.clock, now_ms=decision.as_of_ms, replied=True
            ),
            stale_after=self.config.stale_after,
            unsent=lambda: sum(figures.waiting for figures in self.alert_figures().values()),
            series_max=self.settings.server.metrics_series_max,
            traffic=self.traffic,
            store_size=lambda: (self.size.store_bytes, self.size.free_bytes),
            dead_letters=lambda: 0 if self._runner is None else self._runner.dead_letters,
            alerts=self.alert_figures,
            version=version("regimegate"),
        )
        sessions = Sessions(self.keys)
        ports = Ports(
            config=self.config, board=self.board, ingest=self.ingest, epoch=lambda: self._epoch,
            decisions=self.decisions, explain=self.explain, outcomes=self.outcomes, has_model=self.has_model,
            overrides=self.overrides, now_ms=self._now_ms, event_now_ms=self.event_now_ms, health=self.health,
            fault=self.fault, metrics=exposition(collector), hosts=frozenset(hosts), keys=self.keys,
            session=sessions.key,
            metrics_open=self.settings.server.metrics_open, requests_per_s=self.settings.server.requests_per_s,
            requests_burst=self.settings.server.requests_burst, streams_max=self.settings.server.streams_max,
            key_streams_max=self.settings.server.key_streams_max, features_max=self.settings.server.features_max,
            push_max=self.settings.server.push_max, push_key_max=self.settings.server.push_key_max,
            traffic=self.traffic,
        )  # fmt: skip
        environment = child_environment()

        def decode(file: IO[bytes], content_type: str) -> Reference:
            server = self.settings.server
            return reference_apart(
                file, content_type, memory_mb=server.decode_memory_mb, timeout_s=server.decode_timeout_s,
                environment=environment,
            )  # fmt: skip

        app = create_app(ports, decode)
        operations.install(app, ports, self.dead_letters)
        install_alerts(app, self.alerts_listed, self.settle_alerts)
        mount.install(app, Page(ports, Histories(self.bodies, self.decisions, self.reference), sessions, push=True))
        return app


def ways(settings: Settings) -> list[Way]:
    """Return the channels of the settings, with their secrets. Raises `OperatorError` naming the one that is wrong."""
    return [
        Way(one.name, one.kind, make_channel(one, channel_secrets(one)), one.timeout_s)
        for one in settings.alerts.channels
    ]


def failure(name: str, reason: str, now_ms: int, *, resolved: bool = False) -> Alert:
    """Return what operators are told when the service itself fails (or, stuck, goes on)."""
    machine = socket.gethostname()
    # The minute tells one failure from the next; who hears the same one twice hears it under one key.
    identity = (machine, reason, str(resolved), str(now_ms // 60_000))
    if name == "RegimeServiceDown":
        return of_service(
            name, f"REGIMEGATE IS DOWN on {machine}: nothing can be written", f"The service cannot go on: {reason}.",
            "It answers 503, and ends if it was running. Bots live out the answer they hold (a minute, after a POST "
            "until the next candle and a minute), then they pause: no new entries, exits are free.",
            ["make room on the disk, or bring the database back", "regime verify-log STORE: is the log sound?",
             "start it again: what was acknowledged is in the log"],
            now_ms=now_ms, identity=identity,
        )  # fmt: skip
    if name == "RegimeCannotStart":
        return of_service(
            name, f"REGIMEGATE DOES NOT START on {machine}", f"The service judges nothing: {reason}.",
            "It answers 503. Bots live out the answer they hold, then they pause: no new entries, exits are free.",
            ["do what stands above, stop the service and start it again; what was acknowledged is in the log"],
            now_ms=now_ms, identity=identity,
        )  # fmt: skip
    if name == "RegimeAlertsFailed":
        return of_service(
            name, f"NO ALERTS FROM {machine} any more", f"Alerts that wait cannot be read: {reason}",
            "Trades are guarded as before, bots are answered; but this is the last you hear of it.",
            ["regime verify-log STORE", "restore a back-up; look at the service yourself until then"],
            now_ms=now_ms, identity=identity,
        )  # fmt: skip
    if name == "RegimeClockBehind":
        return of_service(
            name,
            f"REGIMEGATE GOES ON on {machine}: its clock is right again" if resolved
            else f"REGIMEGATE WAITS on {machine}: the machine's clock is wrong",
            "Time is known again." if resolved else f"Nobody is answered: {reason}.",
            "Bots are answered again." if resolved
            else "It answers 503; bots pause when the answer they hold has run out: no new entries, exits are free.",
            [] if resolved else ["set the clock of the machine right (NTP); it goes on by itself",
                                 "if it is right now, wait until it has reached the newest time of the log"],
            now_ms=now_ms, identity=identity, resolved=resolved,
        )  # fmt: skip
    happened = (
        "Events are stored and judged again." if resolved else f"Nothing is stored and nothing is judged: {reason}."
    )
    return of_service(
        name, f"REGIMEGATE {'GOES ON' if resolved else 'HANGS'} on {machine}", happened,
        "Bots are answered again." if resolved
        else "It answers 503; bots pause when the answer they hold has run out: no new entries, exits are free.",
        [] if resolved else ["look at the disk, and at what else keeps the machine busy",
                             "it goes on by itself as soon as it can"],
        now_ms=now_ms, identity=identity, resolved=resolved,
    )  # fmt: skip


def explain(engine: Engine) -> dict[str, Any]:
    """Return what stands behind an engine's current answer, JSON-able."""
    state, decision = engine.state, engine.decision
    evidence = [_detector(watch, found) for watch in engine.watches for found in watch.evidence()]
    sides = {}
    for side in SIDES:
        known, book = engine.edge(side), state.books[side]
        outcomes = state.outcomes.get(side, [])
        low, high = wilson_interval(wins(outcomes[-50:]), len(outcomes[-50:]), 1.96)
        sides[side] = {
            "trades": len(outcomes), "win_rate_last_50": _finite(win_rate(outcomes[-50:])),
            "win_rate_interval": [_finite(low), _finite(high)],
            "break_even": _finite(engine.break_even(side)),
            "signals": state.signals.get(side, 0),
            "real_trades": sum(not o.shadow for o in outcomes), "shadow_trades": sum(o.shadow for o in outcomes),
            "edge": msgspec.to_builtins(known),
            "entry": _entry_words(known, state.entries.get(side), known_to_rank=side in state.entries),
            "exit": "left alone: no evidence about other exit thresholds is gathered, so the bot's own stands",
            "gate": msgspec.to_builtins(engine.gate(side)),
            "out_of_sample": msgspec.to_builtins(engine.out_of_sample(side)),
            "guard_value": msgspec.to_builtins(engine.live_value(side)),
            "refused_signals": {
                "followed": engine.followed(side), "refused": book.refused, "resolved": book.resolved,
                "unresolved": book.unresolved, "overlapping": book.overlapping, "open": len(book.shadows),
                "note": _following(engine, side), "last": [msgspec.to_builtins(s) for s in book.signals[-20:]],
            },
            "votes": [{"code": s.vote.code, "since_ms": s.since_ms, "text": s.vote.text, "value": s.vote.value,
                       "limit": s.vote.limit, "lift": list(s.vote.lift)}
                      for s in state.sides[side].standing.values()],
        }  # fmt: skip
    return {
        "model": engine.key.model, "symbol": engine.key.symbol, "timeframe": engine.key.timeframe,
        "version": decision.version if decision is not None else 0,
        "digest": engine.digest(), "decision_chain": state.chain,
        "reference": {
            "id": state.reference_id, "version": state.reference_version, "rows": state.reference_rows,
            "trained_until_ms": state.trained_until_ms, "self_reference": state.self_reference,
            "note": "the stream is compared with its own beginning; no false-alarm rate is promised"
            if state.self_reference
            else None,
        },
        "data": {
            "observations": state.observations, "late": state.late, "holes": state.holes,
            "candle_differences": state.candle_differences, "features": len(state.features),
            "missing_features": list(state.missing), "unknown_features": list(state.extra),
            "features_without_value": list(state.non_finite),
        },
        "drawdown": {
            "ratio": state.drawdown.ratio, "source": state.drawdown.source, "figures_dropped": state.drawdown.dropped,
            "by_side": {side: state.drawdown.of_side(side) for side in SIDES},
        },
        "detectors": evidence, "alarms_per_day": {k: r._asdict() for k, r in engine.alarm_rates().items()},
        "sides": sides,
        "overrides": [msgspec.to_builtins(o) for o in state.overrides],
    }  # fmt: skip


def _entry_words(known: Edge, wanted: float | None, *, known_to_rank: bool) -> str:
    """Say what the entry threshold rests on."""
    if known_to_rank:
        return "by evidence: " + ("no score earns its fees now" if wanted is None else f"scores from {wanted:.2f} on")
    return "left alone: " + known.sentences[0]


def _following(engine: Engine, side: Side) -> str:
    """Say whether refused signals leave outcomes, and what is missing where they do not."""
    if engine.state.books[side].bot_reports:
        return "the bot reports paper trades of its own; ours are off"
    if engine.followed(side):
        return "refused signals are followed on paper, by the bot's declared exits"
    return (
        "refused signals leave no outcome: declare the bot's exits ([models.<name>.exits]) and send candles, or send "
        "paper trades (shadow: true). Until then a pause ends by a few small trades only"
    )


def _detector(watch: Watch, found: Evidence) -> dict[str, Any]:
    top = top_features(watch.columns, watch.detectors[found.kind].feature_statistics) if found.warm else ()
    return {
        "detector": found.name, "warm": found.warm, "drift": found.drift,
        "statistic": _finite(found.statistic), "limit": _finite(found.limit),
        "level": found.level or None,
        "features": [{"name": name, "times_limit": _finite(value)} for name, value in top],
        "change": _change(watch, found), "calibration": _calibration(watch, found.kind),
    }  # fmt: skip


def _change(watch: Watch, found: Evidence) -> dict[str, Any] | None:
    """What changed, where and since when, while a detector is not calm."""
    change = watch.changed(found)
    return None if change is None else change._asdict()


def _calibration(watch: Watch, kind: str) -> dict[str, Any] | None:
    """How far the promise about false alarms goes."""
    limits = watch.calibrations().get(kind)
    if limits is None:
        return None
    report = limits.report
    return {
        "id": limits.digest, "rows_per_false_alarm": limits.rows_per_false_alarm, "claim": report.claim,
        "run_length": _finite(report.run_length),
        "run_length_interval": [_finite(report.run_length_low), _finite(report.run_length_high)],
        "effective_rank": _finite(report.effective_rank), "warnings": list(report.warnings),
    }  # fmt: skip


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class _Server(PatientServer):
    """uvicorn without its own signal handling (it would end the process by the signal after draining)."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(service: Service, sock: socket.socket, announce: Callable[[], None]) -> int:
    settings = service.settings.server
    patience = Patience(
        header_s=settings.header_timeout_s, body_s=settings.body_timeout_s, connections_max=settings.connections_max
    )
    application = service.http()
    server = _Server(
        uvicorn.Config(
            application, http=protocol(patience, at_once=application.at_once, refused=service.traffic.refused),
            ws="none", log_config=None, log_level="error", access_log=False,
            lifespan="off", server_header=False, date_header=False, timeout_keep_alive=settings.keep_alive_s,
            timeout_graceful_shutdown=10,
        )
    )  # fmt: skip
    loop = asyncio.get_running_loop()
    code = 0

    def leave() -> None:
        application.leave()
        server.should_exit = True

    def failed(reason: str) -> None:
        nonlocal code
        code = EXIT_FAILED
        # A moment is left for bots to read why; then the supervisor sees the exit code.
        loop.call_soon_threadsafe(lambda: loop.call_later(FAREWELL_S, leave))

    service.on_failure = failed
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave)

    async def look_after() -> None:
        for at in itertools.count(1):
            await asyncio.sleep(MEASURE_EVERY_S)
            due = at * MEASURE_EVERY_S % LOOK_EVERY_S == 0
            await asyncio.to_thread(service.look_after_store if due else service.measure_store)

    async def watch() -> None:
        # A thread that fails says so itself; this is for one that ends without a word.
        while code == 0:
            await asyncio.sleep(WATCH_EVERY_S)
            service.look_for_trouble()
            if (reason := service.writer_failed()) is not None:
                failed(reason)

    tasks = [asyncio.create_task(look_after()), asyncio.create_task(watch())]
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.005)
    # The door is open before the state is there: until then it says 503, why, and how far it is.
    recovering = asyncio.create_task(asyncio.to_thread(service.recover))
    await asyncio.wait((serving, recovering), return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        service.interrupt()
    elif recovering.exception() is not None:
        leave()
    else:
        if service.unreachable:
            loop.call_later(max(0.0, UNREACHABLE_S - FAREWELL_S), failed, "the store cannot be reached")
        announce()
    await serving
    for each in tasks:
        each.cancel()
    await recovering  # raises what only a person can mend
    return code


def bind(host: str, port: int, *, locked: bool = False) -> socket.socket:
    """Return a listening socket. Raises `OperatorError` for a public address unless there are keys (`locked`), or for
    one that is taken."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise OperatorError(f"host {host!r} is not an address; use 127.0.0.1") from None
    if not loopback and not locked:
        raise OperatorError(
            f"refusing to listen on {host}: without keys only loopback is safe, for whoever reaches that address could "
            "command the bots. Make a key with `regime keys create --scope ingest` (same --config or --store), or "
            "listen on 127.0.0.1"
        )
    if not loopback:
        log.warning(
            "listening on %s without TLS: keys and answers can be read on the way. Put a reverse proxy in front of it "
            "and listen on 127.0.0.1 (docs/security.md)", host,
        )  # fmt: skip
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Inherited by every connection. Without it head and body of an answer wait for each other, 40 ms a request.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise OperatorError(f"cannot listen on {host}:{port}: {error.strerror}; is another service running?") from None
    return sock


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed, else the standard loop."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def serve(settings: Settings, announce: Callable[[str], None]) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code: 0, or 1 after the store failed."""
    service = Service(settings)
    sock = bind(settings.server.host, settings.server.port, locked=service.keys.usable)
    if settings.server.hosts and service.keys.open:
        log.warning(
            "`hosts` names %s and there is no key: whoever reaches a proxy that passes these on can command the bots. "
            "Make a key with `regime keys create --scope ingest`", ", ".join(settings.server.hosts),
        )  # fmt: skip
    with contextlib.closing(sock):
        service.open()
        try:
            host = f"[{settings.server.host}]" if ":" in settings.server.host else settings.server.host
            address = f"http://{host}:{sock.getsockname()[1]}"
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                return runner.run(_serve(service, sock, lambda: announce(address)))
        finally:
            service.stop()
