"""Replay: a for-loop over the same engine that runs live.

Two kinds of history can be played:

- a *log* of the service, which already holds its Ticks: nothing is added, decisions and digests are those of the day;
- *files*, merged by availability (`merge_order`): on event time the Ticks that were due in between are made here, by
  the same function the live service uses, so that pushing the files over HTTP gives the same digests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from regime.events import AnyEvent, merge_order
from regime.fleet import Fleet, StreamStep


class Played(NamedTuple):
    """One event (a Tick that was due counts as one) and what it did to each stream it reached."""

    event: AnyEvent
    steps: list[StreamStep]


def replay(events: Iterable[AnyEvent], fleet: Fleet) -> Iterator[Played]:
    """Feed `events` to `fleet` in the order given, with the Ticks that are due on event time in between."""
    for event in events:
        yield from step_with_ticks(event, fleet)


def step_with_ticks(event: AnyEvent, fleet: Fleet) -> Iterator[Played]:
    """Yield the Ticks due before `event`, each stepped, and then `event` itself."""
    while (tick := fleet.tick_before(event)) is not None:
        yield Played(tick, fleet.step(tick))
    yield Played(event, fleet.step(event))


def merged(*sources: Iterable[AnyEvent]) -> list[AnyEvent]:
    """Merge events of files by availability; at the same instant candle, trade, equity, observation, command.

    The sort is stable: events of one kind and instant keep the order of their file.
    """
    return sorted((event for source in sources for event in source), key=merge_order)
