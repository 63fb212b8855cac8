"""`regime log archive`, `regime log status`, and `regime replay --archive`."""

from __future__ import annotations

import contextlib
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from regime.calibration import Calibration
from regime.config import EngineConfig
from regime.decision import Decision, decision_bytes, decode_decision
from regime.errors import OperatorError
from regime.fleet import Fleet
from regime.reference import Reference
from regime_service.archive.filling import fill
from regime_service.archive.folder import Archive
from regime_service.archive.history import opened
from regime_service.archive.status import Day, Hole, StreamDays, status
from regime_service.settings import Settings
from regime_service.stores.opening import open_store

HOLES_SHOWN = 3


def run_archive(console: Console, settings: Settings, folder: str | None) -> int:
    """Bring the archive up to the store, and say how far it goes."""
    place = _folder(settings, folder)
    count = _fill(settings, place)
    state = Archive(place).state
    console.print(
        f"archived: {count:,} new events, {state.last_seq:,} in all: {place}", markup=False, highlight=False,
        soft_wrap=True,
    )  # fmt: skip
    return 0


def _folder(settings: Settings, folder: str | None) -> Path:
    if not (folder or settings.store.url) and not Path(settings.store.file).name:
        raise OperatorError(f"--store {settings.store.file}: that is no file")
    place = Path(folder) if folder else settings.archive_folder()
    if place is None:
        raise OperatorError("the store is a database, so say where the archive is: --folder DIR, or [archive] folder")
    return place


def _fill(settings: Settings, place: Path) -> int:
    store = settings.store
    if not store.url and not Path(store.file).exists():
        raise OperatorError(f"the store {store.file} does not exist; name it with --store")
    with contextlib.closing(open_store(store.where, read_only=True)) as source:
        return fill(place, source)


# --- how complete it is ---------------------------------------------------------------------------------------------


def run_status(console: Console, settings: Settings, folder: str | None, *, days: int, as_json: bool) -> int:
    """Say how complete the last days of each stream are; the archive is brought up to the store first."""
    if days < 1:
        raise OperatorError(f"--days must be at least 1, got {days}")
    place = _folder(settings, folder)
    try:
        _fill(settings, place)
    except OperatorError:
        # A service fills it at this moment, or the store is elsewhere: what is there can be told.
        if not (place / "archive.json").exists():
            raise
    until_ms = time.time_ns() // 1_000_000 if settings.engine.clock == "wall" else None
    found = status(Archive(place), days=days, until_ms=until_ms)
    if as_json:
        plain = [
            {**msgspec.to_builtins(stream), "expected": stream.expected, "present": stream.present} for stream in found
        ]
        console.file.write(json.dumps(plain) + "\n")
        return 0
    for line in _lines(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def _lines(found: list[StreamDays]) -> list[str]:
    if not found:
        return ["no observation has been archived yet"]
    lines = []
    for stream in found:
        share = stream.present / stream.expected if stream.expected else 1.0
        lines.append(
            f"{stream.model} {stream.symbol} {stream.timeframe}: {stream.present:,} of {stream.expected:,} candles, "
            f"{share:.2%}"
        )
        lines += [f"  {_day(day)}" for day in stream.days]
    return lines


def _day(day: Day) -> str:
    said = f"{day.day}  {day.present:>5,} of {day.expected:<5,}"
    if day.late:
        said += f"  {day.late} late (stored, not judged)"
    if day.missing:
        shown = "; ".join(map(_hole, day.holes[:HOLES_SHOWN]))
        more = len(day.holes) - HOLES_SHOWN
        said += f"  missing {day.missing}: {shown}" + (f" and {more} more holes" if more > 0 else "")
    return said


def _hole(hole: Hole) -> str:
    first, last = (datetime.fromtimestamp(ms / 1000, UTC).strftime("%H:%M") for ms in (hole.first_ms, hole.last_ms))
    return first if hole.candles == 1 else f"{first} to {last} ({hole.candles})"


# --- the same again? ------------------------------------------------------------------------------------------------


def run_archive_replay(console: Console, config: EngineConfig, folder: str, *, as_json: bool) -> int:
    """Step every event of an archive and hold each decision against the one that was served; 1 if one differs."""
    archive = opened(folder)
    fleet = Fleet(
        config,
        lambda known: Reference.from_bytes(archive.kept(known)),
        lambda known: Calibration.from_json(archive.kept(known).decode()),
    )
    served = archive.decisions()
    compared, different = 0, None
    with Progress(
        TextColumn("{task.description}"), BarColumn(), console=console, transient=True,
        disable=as_json or not console.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("replaying", total=archive.state.last_seq)
        waiting = next(served, None)
        for row in archive.events():
            made = [step.step.decision for step in fleet.step(row.event) if step.step.changed]
            while different is None and (made or (waiting is not None and waiting[0] <= row.seq)):
                mine = made.pop(0) if made else None
                theirs = waiting if waiting is not None and waiting[0] <= row.seq else None
                if mine is None or theirs is None or decision_bytes(mine) != theirs[1]:
                    different = _difference(row.seq, mine, theirs)
                    break
                compared += 1
                waiting = next(served, None)
            bar.update(task, completed=row.seq)
        if different is None and waiting is not None:
            different = _difference(waiting[0], None, waiting)
    found: dict[str, Any] = {
        "events": archive.state.last_seq, "decisions": compared, "identical": different is None,
        "first_difference": different, "digest": fleet.digest(),
    }  # fmt: skip
    if as_json:
        console.file.write(json.dumps(found) + "\n")
    else:
        console.print(_verdict(found), markup=False, highlight=False, soft_wrap=True)
    return 0 if different is None else 1


def _verdict(found: dict[str, Any]) -> str:
    if found["identical"]:
        return (
            f"identical: {found['events']:,} events give the same {found['decisions']:,} decisions, byte for byte; "
            f"state digest {found['digest'][:16]}"
        )
    first = found["first_difference"]
    return f"different from event {first['seq']} on, after {found['decisions']:,} equal decisions: {first['what']}"


def _difference(seq: int, mine: Decision | None, theirs: tuple[int, bytes] | None) -> dict[str, Any]:
    """Say where a replay first comes out otherwise, and in what."""
    if theirs is None:
        assert mine is not None
        return {"seq": seq, "what": f"{mine.key} version {mine.version} was not served then"}
    then = decode_decision(theirs[1])
    if mine is None:
        return {"seq": theirs[0], "what": f"{then.key} version {then.version} was served then and is not made now"}
    if mine.policy_id != then.policy_id:
        what = (
            f"{then.key} version {then.version} was judged by another configuration (policy {then.policy_id}; this one "
            f"is {mine.policy_id}). Give the one of then with --config"
        )
        return {"seq": seq, "what": what}
    fields = [name for name in Decision.__struct_fields__ if getattr(mine, name) != getattr(then, name)]
    pairs = "; ".join(f"{name} was {getattr(then, name)!r} and is {getattr(mine, name)!r}" for name in fields[:3])
    return {"seq": seq, "what": f"{then.key} version {then.version}: {pairs[:600]}"}
