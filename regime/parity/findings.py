"""What can be wrong, in words: one `Cause` each, with what to do about it; and what was found."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Cause:
    """A kind of fault. `rank` breaks ties: what lies further up the stream of data comes first."""

    code: str
    title: str
    do: str
    rank: int


def _causes() -> dict[str, Cause]:
    rows = (
        ("time-zone", "the times of one side are in another time zone",
         "Write UTC with its offset on both sides; or read the file with its own zone (mapping key `timezone`)."),
        ("shift", "one side is a candle late",
         "Look whether one side labels a candle by its close, drops the last row, or reads the row after: a feature "
         "that knows its candle before it closed also makes a backtest win."),
        ("renamed-column", "columns stand under other names",
         "Feed the model by column name, in the order of its training, and write the header anew when columns change."),
        ("missing-column", "columns of the backtest are missing live",
         "Compute them live too; a model that gets a default instead of a feature is another model."),
        ("forming-candle", "one side reads a candle that is still forming",
         "Drop the last row of every download unless its close time has passed, on both sides."),
        ("other-feed", "the candles come from another feed",
         "Download the backtest's candles from the exchange and market (spot, perpetual) on which the bot trades."),
        ("unit", "another unit or scaler",
         "Use one scaler, saved with the model; compare its mean and scale on both sides."),
        ("cumulative", "a running total that began elsewhere",
         "Replace the total by its change, or by a sum over a fixed window: its level depends on where the history "
         "begins."),
        ("short-warm-up", "too little history before the first values",
         "Load as many candles before the first one as the longest average needs (three to four times its length for "
         "exponential ones), at every start and at every call."),
        ("other-window", "normalised (or averaged) over another window",
         "Use the same window length on both sides; a rolling mean over what was downloaded is as long as the "
         "download."),
        ("filled", "missing values are filled differently",
         "Fill in one place, in code that both sides share; train with the same filling."),
        ("rounded", "one side is rounded coarsely",
         "Log and compare with full precision (repr of the float)."),
        ("other-model", "another model",
         "Compare the hash of the model file, its feature list and its order on both sides."),
        ("unexplained", "not explained by any cause we know",
         "Log the features of both sides for the same candles and compare those: probabilities alone cannot say more."),
    )  # fmt: skip
    return {code: Cause(code, title, do, rank) for rank, (code, title, do) in enumerate(rows)}


CAUSES = _causes()


@dataclass(frozen=True, slots=True)
class Finding:
    """A cause, the evidence for it, and how much of what differs it accounts for."""

    cause: str
    title: str
    evidence: tuple[str, ...]
    do: str
    columns: tuple[str, ...]
    """Columns the cause was seen in; what merely follows from them is not among them."""
    cells: int
    """Differing values it accounts for, with those that follow from it."""
    share: float
    """The same as a share of all differing values (a column that is not there counts as one that differs
    everywhere)."""
    exact: bool
    """True where undoing the fault makes the two sides equal; False where it is the likeliest of what we know."""
    first_ms: int | None
    """First candle it was seen on."""


def at(ts_ms: int) -> str:
    """Write a candle's time.

    >>> at(1762145100000)
    '2025-11-03 04:45'
    """
    moment = datetime.fromtimestamp(ts_ms / 1000, UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S" if ts_ms % 60_000 else "%Y-%m-%d %H:%M")


def some(names: list[str] | tuple[str, ...], most: int = 5) -> str:
    """Join names; what goes beyond `most` is counted.

    >>> some(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def candles(number: int) -> str:
    """Write a number of candles.

    >>> candles(1), candles(2500)
    ('1 candle', '2,500 candles')
    """
    return f"{number:,} candle{'' if number == 1 else 's'}"


def lasting(ms: int) -> str:
    """Write a length of time.

    >>> lasting(300_000), lasting(-32_400_000), lasting(5_400_000)
    ('5 min', '9 h', '1 h 30 min')
    """
    minutes, seconds = divmod(abs(ms) // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours} h"] if hours else []
    parts += [f"{minutes} min"] if minutes else []
    parts += [f"{seconds} s"] if seconds or not parts else []
    return " ".join(parts)
