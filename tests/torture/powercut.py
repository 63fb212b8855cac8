"""Simulated power cuts on the project's real `SqliteStore`: writes that were not synced may be lost, reordered or torn.

    python tests/torture/powercut.py [--trials 10000] [--seed 1] [--control normal|ack-early]

A trial writes groups as the runner does, acknowledges each after `commit`, and loses its power at a random I/O call.
What a disk may then hold is put together from what was synced and a random choice of the rest; the store is opened on
it, read with `verify`, and must hold every acknowledged event, whole groups only, and no version lower than one that
was served. Then it goes on from there, up to three cuts a trial, so that cuts while opening and recovering are among
them, and so are stores that were closed in good order and opened again.

The disk: what `xSync` has seen is safe. Of the rest, by the trial's lot: nothing, a prefix, any subset, or a subset
with some writes torn at a sector. Until the folder is synced, a new file may have no name, and a deleted one may be
back.

The negative controls must lose, else this harness is blind: `normal` opens the store with `synchronous=NORMAL`,
`ack-early` acknowledges before `commit`.

Exit codes: 0 nothing was lost (a control: it lost), 1 it was the other way round.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from regime.codec import encode
from regime.decision import Decision, SideDecision, Sides, TradingState
from regime.errors import RegimeError
from regime.events import Observation, StreamKey
from regime_service.stores import offer, sqlite
from regime_service.stores.sqlite import SqliteStore

SECTOR_BYTES = 512
CHECKPOINT_PAGES = 12
"""Instead of 1000, so that many cuts fall into a checkpoint."""
GROUP_EVENTS = 3
"""The first event of a group says how many it has: a torn group is told from a whole one."""
KEY = StreamKey("m", "s", "5m")
CONTROLS = ("normal", "ack-early")


class Disk:
    """What is safe, and what was written since; names are without their folder."""

    def __init__(self, image: dict[str, bytes], cut_at: int) -> None:
        self.safe = dict(image)
        self.unsynced: dict[str, list[tuple[str, int, bytes]]] = {name: [] for name in image}
        self.named = set(image)
        self.ghosts: dict[str, bytes] = {}
        self.calls = 0
        self.cut_at = cut_at

    def call(self) -> None:
        """Count an I/O call; the power goes at the `cut_at`th and stays away."""
        self.calls += 1
        if self.calls >= self.cut_at:
            raise apsw.IOError("the power is gone")

    @property
    def is_off(self) -> bool:
        return self.calls >= self.cut_at

    def open(self, name: str) -> None:
        self.safe.setdefault(name, b"")
        self.unsynced.setdefault(name, [])

    def write(self, name: str, operation: tuple[str, int, bytes]) -> None:
        self.unsynced[name].append(operation)

    def sync(self, name: str) -> None:
        self.safe[name] = applied(self.safe[name], self.unsynced[name])
        self.unsynced[name] = []

    def sync_folder(self) -> None:
        self.named = set(self.safe)
        self.ghosts.clear()

    def delete(self, name: str) -> None:
        if name in self.named:
            self.ghosts[name] = self.safe[name]
        self.safe.pop(name, None)
        self.unsynced.pop(name, None)
        self.named.discard(name)

    def after_the_cut(self, rng: random.Random) -> dict[str, bytes]:
        """Return what the disk holds when the power is back."""
        lot = rng.choice(("nothing", "prefix", "subset", "torn"))
        image = {}
        for name, safe in self.safe.items():
            if name not in self.named and rng.random() < 0.5:
                continue
            image[name] = applied(safe, _survivors(self.unsynced[name], lot, rng))
        for name, safe in self.ghosts.items():
            if name not in image and rng.random() < 0.5:
                image[name] = safe
        return image


def _survivors(operations: list[tuple[str, int, bytes]], lot: str, rng: random.Random) -> list[tuple[str, int, bytes]]:
    if lot == "nothing":
        return []
    if lot == "prefix":
        return operations[: rng.randint(0, len(operations))]
    kept = []
    for kind, at, data in operations:
        if rng.random() < 0.5:
            if lot == "torn" and kind == "write" and len(data) > SECTOR_BYTES and rng.random() < 0.5:
                # From either end: a disk need not write from the front.
                whole = SECTOR_BYTES * rng.randint(1, (len(data) - 1) // SECTOR_BYTES)
                if rng.random() < 0.5:
                    at, data = at + whole, data[whole:]
                else:
                    data = data[:whole]
            kept.append((kind, at, data))
    return kept


def applied(content: bytes, operations: list[tuple[str, int, bytes]]) -> bytes:
    """Return `content` after writes and truncations."""
    result = bytearray(content)
    for kind, at, data in operations:
        if kind == "truncate":
            del result[at:]
        else:
            if len(result) < at:
                result += bytes(at - len(result))
            result[at : at + len(data)] = data
    return bytes(result)


class PowerFile(apsw.VFSFile):
    """Passes everything on and tells the disk."""

    def __init__(self, owner: PowerFiles, name: Any, flags: list[int]) -> None:
        super().__init__(owner.usual, name, flags)
        self._owner = owner
        self._name = os.path.basename(name.filename() if isinstance(name, apsw.URIFilename) else str(name))
        # SQLite's own file system syncs the folder with the first sync of a log it may have made.
        logs = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL
        self._syncs_folder = bool(flags[0] & logs and flags[0] & apsw.SQLITE_OPEN_CREATE)
        owner.disk.open(self._name)

    def xWrite(self, data: Any, offset: int) -> None:
        self._owner.disk.call()
        self._owner.disk.write(self._name, ("write", offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._owner.disk.call()
        self._owner.disk.write(self._name, ("truncate", newsize, b""))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        # No real fsync: what survives is for `Disk` to say.
        self._owner.disk.call()
        self._owner.disk.sync(self._name)
        if self._syncs_folder:
            self._owner.disk.sync_folder()
            self._syncs_folder = False


class PowerFiles(apsw.VFS):
    """The file system whose power can be cut; `disk` is that of the trial in hand."""

    def __init__(self) -> None:
        self.usual = apsw.vfs_names()[0]
        self.disk = Disk({}, sys.maxsize)
        super().__init__("powercut", self.usual, maxpathname=0)

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        return PowerFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self.disk.call()
        self.disk.delete(os.path.basename(filename))
        super().xDelete(filename, syncdir)


@contextlib.contextmanager
def power_files() -> Iterator[PowerFiles]:
    """Put the file system under every SQLite connection of this process, for as long as the block runs."""
    usual = apsw.vfs_names()[0]
    files = PowerFiles()
    usual_pages, sqlite._CHECKPOINT_PAGES = sqlite._CHECKPOINT_PAGES, CHECKPOINT_PAGES
    usual_sync = sqlite._sync_folder

    def sync_folder(folder: Path) -> None:
        files.disk.call()
        files.disk.sync_folder()

    sqlite._sync_folder = sync_folder
    apsw.set_default_vfs("powercut")
    try:
        yield files
    finally:
        apsw.set_default_vfs(usual)
        sqlite._CHECKPOINT_PAGES, sqlite._sync_folder = usual_pages, usual_sync
        files.unregister()


class Outcome(NamedTuple):
    """What trials came to: cuts, acknowledged events, how many of those were lost, and what else was wrong."""

    cuts: int
    acknowledged: int
    lost: int
    faults: tuple[str, ...]


class _Trial:
    def __init__(self, seed: int, control: str) -> None:
        self._rng = random.Random(seed)
        self._control = control
        self._sent: dict[int, bytes] = {}
        self._acknowledged = 0
        self._version = 0
        self._version_acknowledged = 0
        self._epoch = ""

    def _write(self, store: SqliteStore) -> None:
        """Write groups until the power goes, or for a while."""
        rng = self._rng
        for _ in range(rng.choice((2, 10, 200))):
            count = rng.randint(1, GROUP_EVENTS)
            store.begin()
            for i in range(count):
                event = self._event(store._next_seq, count if i == 0 else 0)
                raw = encode(event)
                seq = offer(store, event, raw, 7).seq
                self._sent[seq] = raw
                if i == 0:
                    self._version += 1
                    store.put_decision(seq, _decision(self._version))
            if rng.random() < 0.1:
                store.put_snapshot(seq, "f", rng.randbytes(rng.randint(10, 30_000)))
            if self._control == "ack-early":
                self._acknowledged, self._version_acknowledged = seq, self._version
            store.commit()
            self._acknowledged, self._version_acknowledged = seq, self._version
            store.tidy()

    def _event(self, seq: int, size: int) -> Observation:
        rng = self._rng
        features: dict[str, float | None] = {f"f{i}": rng.random() for i in range(rng.choice((1, 5, 60, 200)))}
        # Its content is new in every life: what was lost may be sent again with another.
        return Observation(
            model="m", symbol="s", timeframe="5m", ts_ms=seq * 300_000, features={"size": float(size), **features}
        )

    def life(self, files: PowerFiles, folder: Path, image: dict[str, bytes]) -> dict[str, bytes]:
        """Open the store on `image`, write, lose power; return what is left."""
        rng = self._rng
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, content in image.items():
            (folder / name).write_bytes(content)
        files.disk = Disk(image, rng.choice((rng.randint(1, 60), rng.randint(20, 700))))
        while not files.disk.is_off:
            store = None
            try:
                store = SqliteStore(folder / "store.db")
                self._epoch = self._epoch or store.epoch
                if self._control == "normal":
                    store._writer.pragma("synchronous", "normal")
                self._write(store)
            except RegimeError:
                if not files.disk.is_off:
                    raise
            finally:
                if store is not None:
                    with contextlib.suppress(apsw.Error):
                        store.close()
        left = files.disk.after_the_cut(rng)
        files.disk = Disk({}, sys.maxsize)
        return left

    def judge(self, folder: Path, image: dict[str, bytes]) -> tuple[int, list[str]]:
        """Return how many acknowledged events `image` has lost, and what else is wrong with it."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, content in image.items():
            (folder / name).write_bytes(content)
        try:
            store = SqliteStore(folder / "store.db")
        except RegimeError as error:
            return self._acknowledged, [f"it cannot be opened: {error}"]
        faults = []
        try:
            for _ in store.verify():
                pass
            found = dict(store.events())
            lost = sum(found.get(seq) != self._sent[seq] for seq in range(1, self._acknowledged + 1))
            if any(found[seq] != self._sent.get(seq) for seq in found):
                faults.append("it holds an event that nobody sent")
            if not _whole(found):
                faults.append("it holds a part of a group")
            newest = store.latest().get(KEY)
            version = 0 if newest is None else newest.version
            if version < self._version_acknowledged:
                faults.append(f"version {self._version_acknowledged} was served and {version} is left")
            if self._epoch and store.epoch != self._epoch:
                faults.append("the epoch is another one")
                self._epoch = ""
            # The next life goes on from what is there.
            self._acknowledged, self._version = len(found), version
            self._version_acknowledged, self._sent = version, found
        except RegimeError as error:
            return self._acknowledged, [str(error)]
        finally:
            store.close()
        return lost, faults


def _whole(found: dict[int, bytes]) -> bool:
    from regime.codec import decode

    left = 0
    for seq in sorted(found):
        event = decode(found[seq])
        assert isinstance(event, Observation)
        size = int(event.features["size"] or 0)
        if (size > 0) != (left == 0):
            return False
        left = (size or left) - 1
    return left == 0


def _decision(version: int) -> Decision:
    side = SideDecision(state=TradingState.ACTIVE, entry=0.8, exit=0.75, size_factor=1.0, reasons=[])
    return Decision(
        model=KEY.model, symbol=KEY.symbol, timeframe=KEY.timeframe, mode="enforce", version=version, as_of_ms=1,
        data_until_ms=None, regime=None, sides=Sides(long=side, short=side), reference_id=None, policy_id="p",
    )  # fmt: skip


def trial(files: PowerFiles, folder: Path, seed: int, control: str = "") -> Outcome:
    """Run one trial in `folder`, which is emptied: up to three lives of a store, each ended by a cut."""
    made = _Trial(seed, control)
    image: dict[str, bytes] = {}
    acknowledged = lost = cuts = 0
    faults: list[str] = []
    for _ in range(made._rng.randint(1, 3)):
        before = made._acknowledged
        image = made.life(files, folder / "run", image)
        cuts += 1
        acknowledged += made._acknowledged - before
        gone, found = made.judge(folder / "judged", image)
        lost += gone
        faults += [f"trial {seed}, cut {cuts}: {fault}" for fault in found]
        if gone or found:
            break
    return Outcome(cuts, acknowledged, lost, tuple(faults))


def trials(seeds: range, folder: Path, control: str = "", progress: bool = False) -> Outcome:
    """Run a trial for each seed and add up."""
    total = Outcome(0, 0, 0, ())
    with power_files() as files:
        for number, seed in enumerate(seeds, 1):
            one = trial(files, folder, seed, control)
            total = Outcome(
                total.cuts + one.cuts, total.acknowledged + one.acknowledged, total.lost + one.lost,
                (total.faults + one.faults)[:20],
            )  # fmt: skip
            if progress and sys.stderr.isatty() and number % 50 == 0:
                print(f"\r{number} of {len(seeds)}", end="", file=sys.stderr)
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulated power cuts on the real store.")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1, help="number of the first trial; they count up from it")
    parser.add_argument("--control", choices=CONTROLS, help="a store that must lose, to show that we would see it")
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        seeds = range(arguments.seed, arguments.seed + arguments.trials)
        found = trials(seeds, Path(folder), arguments.control or "", progress=True)
    print(
        f"{arguments.control or 'as shipped'}: {arguments.trials} trials, {found.cuts} power cuts, "
        f"{found.acknowledged} events acknowledged, {found.lost} of them lost, {len(found.faults)} other faults "
        f"({time.monotonic() - began:.0f} s)"
    )
    for fault in found.faults[:5]:
        print(f"  {fault}")
    bad = found.lost > 0 or bool(found.faults)
    return int(bad if arguments.control is None else found.lost == 0)


if __name__ == "__main__":
    sys.exit(main())
