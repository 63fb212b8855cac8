"""How the columns of a user's files are named: configuration, not code.

Every field has a default that suits the files most bots write; a bot that writes something else says so in its
configuration (`regime.config.from_mapping(section, LogMapping)` names a mistyped key and the nearest right one).

Which column is what, when nothing is configured (case does not matter):

| column | becomes |
| --- | --- |
| the first of `ts_ms`, `open_time`, `time`, `timestamp`, `datetime`, `date`, ... that holds times | the candle's time |
| `logged_at*`, `log_time*`, `written_at*`, ... | a log time: proves that a candle was closed, never a feature |
| `open`, `high`, `low`, `close`, `volume` | the candle of the observation, not features |
| `probability_long`, `prob_long`, `long_prob`, `entry_long_prob`, ... (short and exit likewise) | probabilities |
| `model`, `symbol`, `timeframe`, ... | names of the stream, left out |
| every other column of numbers | a feature |
| every other column of words | left out, and said so |
"""

from __future__ import annotations

import re
from datetime import UTC, timedelta, timezone, tzinfo
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from regime.config import Section, nearest
from regime.errors import OperatorError

CANDLE_NAMES = ("open", "high", "low", "close", "volume")
TIME_NAMES = (
    "ts_ms", "open_time", "time", "timestamp", "datetime", "date", "open_time_ms", "timestamp_ms", "time_ms",
    "date_time", "ts", "candle_time", "open_timestamp", "index", "", "__index_level_0__",
)  # fmt: skip
"""Names of the candle's time, best first. The last three are what pandas makes of an index without a name."""
LOG_PREFIXES = ("logged_at", "log_time", "logged", "written_at", "received_at", "created_at", "saved_at", "recorded_at")
STREAM_NAMES = frozenset({"kind", "model", "symbol", "pair", "timeframe", "interval", "exchange"})

PROBABILITY_NAMES: dict[str, tuple[str, ...]] = {
    "long": (
        "probability_long", "prob_long", "long_prob", "long_probability", "entry_long_prob", "entry_prob_long",
        "p_long", "probabilities.long",
    ),
    "short": (
        "probability_short", "prob_short", "short_prob", "short_probability", "entry_short_prob", "entry_prob_short",
        "p_short", "probabilities.short",
    ),
    "exit_long": (
        "probability_exit_long", "prob_exit_long", "exit_long_prob", "exit_prob_long", "long_exit_prob",
        "exit_long_probability", "probabilities.exit_long",
    ),
    "exit_short": (
        "probability_exit_short", "prob_exit_short", "exit_short_prob", "exit_prob_short", "short_exit_prob",
        "exit_short_probability", "probabilities.exit_short",
    ),
}  # fmt: skip
TAKEN_NAMES: dict[str, tuple[str, ...]] = {
    "long": ("taken.long", "taken_long"),
    "short": ("taken.short", "taken_short"),
}


class TableMapping(Section, frozen=True, kw_only=True):
    """What every kind of file has in common."""

    timezone: str = "UTC"
    """Zone of times that carry none: `UTC`, a name such as `Asia/Seoul`, or an offset such as `+09:00`."""
    rename: dict[str, str] = msgspec.field(default_factory=dict)
    """Old column name -> new one; everything else below speaks of the new names."""
    extra_headers: list[list[str]] = msgspec.field(default_factory=list)
    """Column names of rows whose width no header in the files has; each list names the rows of its own length."""
    only: dict[str, str] = msgspec.field(default_factory=dict)
    """Column -> text: only rows that hold this text are read, for example `{symbol = "BTC/USDT"}` of a mixed file."""


class LogMapping(TableMapping, frozen=True, kw_only=True):
    """Columns of feature logs, candle files and reference samples."""

    time: str | None = None
    """Column of the candle's time."""
    time_is: Literal["open", "close", "logged"] = "open"
    """What that time is: the candle's opening time; its closing time (one timeframe is taken off); or the moment of
    writing (it belongs to the last candle closed before it)."""
    log_times: list[str] = msgspec.field(default_factory=list)
    """Further columns that hold the moment of writing; `*` at the end matches any rest."""
    features: list[str] = msgspec.field(default_factory=list)
    """If given, only these columns are features; `*` at the end matches any rest (`feat_*`)."""
    ignore: list[str] = msgspec.field(default_factory=list)
    """Columns that are not read at all; `*` at the end matches any rest."""
    candle_as_features: bool = False
    """Keep open, high, low, close and volume as features too, for a model that is fed with them."""
    probability_long: str | None = None
    """Column of the model's probability for a long entry (0..1)."""
    probability_short: str | None = None
    """Column of the model's probability for a short entry (0..1)."""
    probability_exit_long: str | None = None
    """Column of the model's probability for leaving a long position (0..1)."""
    probability_exit_short: str | None = None
    """Column of the model's probability for leaving a short position (0..1)."""

    def probability(self, claim: str) -> str | None:
        """Return the configured column for `claim` (`long`, `short`, `exit_long`, `exit_short`)."""
        found: str | None = getattr(self, f"probability_{claim}")
        return found


class TradeMapping(TableMapping, frozen=True, kw_only=True):
    """Columns of trade lists. What is not given is looked for under the usual names (`TRADE_NAMES`)."""

    trade_id: str | None = None
    """Column of the trade's own number; without one it is made of side, times and entry price."""
    side: str | None = None
    """Column of the side: long/short, buy/sell, 1/-1, any case."""
    opened: str | None = None
    """Column of the entry time."""
    closed: str | None = None
    """Column of the exit time."""
    entry_price: str | None = None
    """Column of the price at which the position was opened."""
    exit_price: str | None = None
    """Column of the price at which it was closed."""
    entry_probability: str | None = None
    """Column of the probability the trade was entered with."""
    entry_probability_long: str | None = None
    """Column of the long probability at entry, used for long trades where there is no `entry_probability`."""
    entry_probability_short: str | None = None
    """The same for short trades."""
    exit_reason: str | None = None
    """Column that says why the trade was closed."""
    size: str | None = None
    """Column of the position's share of the account (0..1)."""
    leverage: float | None = None
    """Leverage of all trades, where the list does not carry it."""
    leverage_column: str | None = None
    """Column of the leverage of each trade."""
    signal_time: str | None = None
    """Column of the opening time of the candle that gave the signal."""
    shadow: bool = False
    """True if these are paper outcomes of signals the bot did not take."""
    profit: list[str] = msgspec.field(default_factory=list)
    """Columns with the list's own profit. They are only compared: profit is always worked out from the two prices."""


TRADE_NAMES: dict[str, tuple[str, ...]] = {
    "trade_id": ("trade_id", "id", "order_id", "deal_id"),
    "side": ("side", "direction", "position", "position_side", "trade_side", "type"),
    "opened": (
        "opened_ms", "entry_time", "opened_at", "open_time", "open_date", "entry_date", "entry_timestamp", "opened",
        "open_timestamp",
    ),
    "closed": (
        "closed_ms", "exit_time", "closed_at", "close_time", "close_date", "exit_date", "exit_timestamp", "closed",
        "close_timestamp",
    ),
    "entry_price": ("entry_price", "open_rate", "open_price", "price_in", "entry"),
    "exit_price": ("exit_price", "close_rate", "close_price", "price_out", "exit"),
    "entry_probability": ("entry_probability", "entry_prob", "entry_confidence"),
    "entry_probability_long": ("entry_long_prob", "entry_prob_long", "entry_long_probability", "long_prob"),
    "entry_probability_short": ("entry_short_prob", "entry_prob_short", "entry_short_probability", "short_prob"),
    "exit_reason": ("exit_reason", "close_reason", "reason", "sell_reason", "exit_type"),
    "size": ("size_ratio", "position_size_pct", "position_size_ratio", "position_pct", "size_pct"),
    "leverage_column": ("leverage",),
    "signal_time": ("signal_ts_ms", "signal_time", "signal_timestamp"),
    "profit": (
        "profit_ratio", "pnl_pct", "leveraged_pnl_pct", "profit_pct", "price_change_pct", "pnl_ratio", "return",
        "return_pct", "pnl", "roi",
    ),
}  # fmt: skip
"""Usual names of the columns of a trade list, best first (case does not matter)."""


_OFFSET = re.compile(r"(?:UTC|GMT)?\s*([+-])(\d{1,2})(?::?(\d{2}))?", re.IGNORECASE)


def zone(name: str) -> tzinfo:
    """Return the time zone called `name`. Raises `OperatorError` where there is none of that name.

    >>> zone("+09:00").utcoffset(None)
    datetime.timedelta(seconds=32400)
    """
    text = name.strip()
    if text.upper() in ("UTC", "Z", "GMT"):
        return UTC
    if (match := _OFFSET.fullmatch(text)) is not None:
        offset = timedelta(hours=int(match[2]), minutes=int(match[3] or 0))
        if offset < timedelta(hours=24):
            return timezone(offset if match[1] == "+" else -offset)
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise OperatorError(
            f"`timezone`: unknown time zone {name!r}; write `UTC`, a name such as `Asia/Seoul` "
            "or an offset such as `+09:00`"
        ) from None


def require(key: str, column: str, known: list[str]) -> None:
    """Raise `OperatorError` unless `column`, which the configuration names under `key`, is in one of the files."""
    if column not in known:
        raise OperatorError(f"`{key}`: no file has a column `{column}`{nearest(column, known[:200])}")


__all__ = [
    "CANDLE_NAMES", "LOG_PREFIXES", "PROBABILITY_NAMES", "STREAM_NAMES", "TAKEN_NAMES", "TIME_NAMES", "TRADE_NAMES",
    "LogMapping", "TableMapping", "TradeMapping", "require", "zone",
]  # fmt: skip
