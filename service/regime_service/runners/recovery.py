"""From a store to the state it stands for: the newest snapshot that fits, and the log after it.

Used twice: by the runner, and by `rehearsal`, which does the same in a process that may die of it.
"""

from __future__ import annotations

import hashlib
import logging
import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import NamedTuple
from weakref import WeakValueDictionary

from regime import codec
from regime.calibration import Calibration
from regime.config import EngineConfig, config_digest
from regime.errors import CorruptionError, RegimeError
from regime.fleet import Fleet
from regime.reference import Reference
from regime_service.stores import Store

log = logging.getLogger("regimegate")

_ENGINE_VERSION = 3
"""Raise it when the same events give other states than before: older snapshots are then passed over."""


class RecoveryFailed(RegimeError):
    """The state cannot be built from the log: not the store is at fault, but the program that judges it.

    Trying again with the same program comes to the same. Nothing is lost.
    """

    status_hint = 503


class Samples:
    """References and limits of a store by their id.

    A reference is tens of megabytes, and the engines do not keep theirs: in hand are those that the open group brought,
    which the store does not show before its COMMIT, and the one that was read last. Limits live as long as a detector
    holds them.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._brought: dict[str, Reference | Calibration] = {}
        self._last: tuple[str, Reference] | None = None
        self._calibrations: WeakValueDictionary[str, Calibration] = WeakValueDictionary()

    def reference(self, known: str) -> Reference:
        found = self._brought.get(known)
        if isinstance(found, Reference):
            return found
        if self._last is None or self._last[0] != known:
            self._last = known, Reference.from_bytes(self._raw("reference", known))
        return self._last[1]

    def calibration(self, known: str) -> Calibration:
        found = self._calibrations.get(known)
        if found is None:
            found = self._calibrations[known] = Calibration.from_json(self._raw("calibration", known).decode())
        return found

    def keep(self, known: str, raw: bytes) -> None:
        """Have a reference, or limits found for one (JSON), at hand until `forget`."""
        if raw.startswith(b"{"):
            self._brought[known] = self._calibrations[known] = Calibration.from_json(raw.decode())
        else:
            self._brought[known] = Reference.from_bytes(raw)

    def forget(self) -> None:
        """The group was committed: the store shows what it brought."""
        self._brought.clear()

    def _raw(self, what: str, known: str) -> bytes:
        try:
            return self._store.reference(known)
        except KeyError:
            raise CorruptionError(f"the {what} {known} is in the log but not in the store") from None


class Recovered(NamedTuple):
    """The engines as they stood after event `last_seq`; `snapshot_seq` is where the snapshot was that helped, or 0."""

    fleet: Fleet
    last_seq: int
    snapshot_seq: int


def fingerprint(config: EngineConfig) -> str:
    """Return what must be equal for a snapshot to be continued bit for bit: configuration, code, libraries, machine."""
    parts = [config_digest(config), str(_ENGINE_VERSION), platform.machine(), platform.python_version()]
    parts += [f"{name} {version(name)}" for name in ("numpy", "numba", "scipy", "msgspec", "river")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def recover(
    store: Store,
    config: EngineConfig,
    samples: Samples,
    *,
    snapshots: bool = True,
    before: Callable[[int], None] = lambda seq: None,
) -> Recovered:
    """Build the engines anew. A snapshot that cannot be read is passed over, and the log replayed instead.

    `before` is called with the number of each event before that is judged, and with 0 before a snapshot is restored;
    what it raises ends the recovery. Raises `CorruptionError` where the log is damaged, `RecoveryFailed` where an event
    of it makes judging fail in a way that no engine can answer for.
    """
    fleet = Fleet(config, samples.reference, samples.calibration)
    last = used = 0
    found = store.newest_snapshot(fingerprint(config)) if snapshots else None
    if found is not None:
        before(0)
        try:
            fleet.restore(found[1])
            last = used = found[0]
        except CorruptionError as error:
            log.warning("the newest snapshot is passed over, the log is replayed instead: %s", error)
            fleet = Fleet(config, samples.reference, samples.calibration)
    for seq, raw in store.events(last):
        before(seq)
        event = codec.decode(raw)
        try:
            fleet.step(event)
        except RegimeError:
            raise
        except Exception as error:
            raise RecoveryFailed(
                f"event {seq} of the log cannot be judged, not even as an error of its stream "
                f"({type(error).__name__}: {error}). Nothing is lost. Go back to the version or the configuration that "
                "could, or report this"
            ) from error
        last = seq
    return Recovered(fleet, last, used)
