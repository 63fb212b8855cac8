"""Replay of a backtest as if the guard had run: trades it refused did not happen.

A list of a backtest holds every trade. Fed as it is, the guard sees losses that it had refused: the drawdown of an
account that nobody had, and outcomes that nobody would have known. Here each trade is held against the answer in force
when it was opened, before the engine hears of it:

- taken: fed as it is, at the `size_factor` of that moment;
- refused, `paper`: fed as a shadow trade, as if somebody had followed it (the service does, where candles and the bot's
  exits are known, or the bot itself);
- refused, `unseen`: not fed at all. The hard case: a pause can only end by the few small trades it tries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from regime.decision import Decision
from regime.events import AnyEvent, StreamKey, Trade
from regime.fleet import Fleet
from regime.guard_value import verdicts
from regime.replay import Played, step_with_ticks

Refused = Literal["paper", "unseen"]


def what_if(events: Iterable[AnyEvent], fleet: Fleet, refused: Refused, *, base_entry: float = 0.0) -> Iterator[Played]:
    """Feed `events` to `fleet` in the order given, trades as the module says.

    Parameters
    ----------
    events
        Merged by availability (`regime.replay.merged`); the Ticks that are due on event time are made here.
    refused
        What becomes of a refused trade.
    base_entry
        The bot's own entry threshold; see `regime.guard_value.verdicts`.
    """
    history: dict[StreamKey, list[Decision]] = {}
    for event in events:
        fed: AnyEvent | None = event
        if isinstance(event, Trade) and not event.shadow:
            fed = _as_guarded(event, history, refused, base_entry)
        if fed is None:
            continue
        for played in step_with_ticks(fed, fleet):
            for key, step in played.steps:
                if step.changed:
                    history.setdefault(key, []).append(step.decision)
            yield played


def _as_guarded(
    trade: Trade, history: dict[StreamKey, list[Decision]], refused: Refused, base_entry: float
) -> Trade | None:
    key = StreamKey(trade.model, trade.symbol, trade.timeframe)
    (verdict,) = verdicts([trade], {key: history.get(key, [])}, base_entry=base_entry)
    if verdict.refused:
        return msgspec.structs.replace(trade, shadow=True) if refused == "paper" else None
    size = 1.0 if trade.size_ratio is None else trade.size_ratio
    return trade if verdict.exposure == 1.0 else msgspec.structs.replace(trade, size_ratio=size * verdict.exposure)
