"""Timeframes as ccxt spells them (`5m`, `1h`, `1d`), in milliseconds."""

from __future__ import annotations

import re
from functools import lru_cache

_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000, "M": 30 * 86_400_000}
_SPELLING = re.compile(r"([1-9][0-9]{0,3})([smhdwM])")


@lru_cache(maxsize=256)
def timeframe_ms(timeframe: str) -> int:
    """Return the length of a candle in milliseconds.

    A month (`M`) counts 30 days, as in ccxt. Raises `ValueError` for anything that is not a timeframe.

    >>> timeframe_ms("5m")
    300000
    """
    match = _SPELLING.fullmatch(timeframe)
    if match is None:
        raise ValueError(f"unknown timeframe {timeframe!r}; expected a number and a unit such as 1m, 5m, 1h, 1d")
    return int(match[1]) * _UNIT_MS[match[2]]
