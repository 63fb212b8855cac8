"""The parity doctor: what the bot saw against what its backtest saw, candle by candle, and the likeliest cause.

    table.py         a side, two sides matched, what counts as equal
    statistics.py    figures of one column
    causes/          one search each: what would the difference look like if this were the fault?
    findings.py      the causes in words, with what to do
    doctor.py        `compare`: asks them in order and ranks what they explain

Examples
--------
>>> import numpy as np
>>> rng = np.random.default_rng(1)
>>> times = 300_000 * np.arange(200)
>>> backtest = Table(times, ("rsi", "atr"), rng.standard_normal((200, 2)))
>>> live = Table(times, ("rsi", "atr"), backtest.values * [100.0, 1.0])
>>> compare(live, backtest).verdict.sentence
'another unit or scaler'
>>> compare(backtest, backtest).verdict.sentence
'clean: 2 columns agree on all of 200 candles in common'
"""

from __future__ import annotations

from regime.parity.doctor import APART, CLEAN, ROWS_MIN, TOO_FEW, ParityReport, Unmatched, Verdict, compare
from regime.parity.findings import CAUSES, Cause, Finding
from regime.parity.statistics import ColumnComparison, ProbabilityComparison
from regime.parity.table import CANDLE, PROBABILITY, Table, Tolerance, kind

__all__ = [
    "APART", "CANDLE", "CAUSES", "CLEAN", "PROBABILITY", "ROWS_MIN", "TOO_FEW", "Cause", "ColumnComparison", "Finding",
    "ParityReport", "ProbabilityComparison", "Table", "Tolerance", "Unmatched", "Verdict", "compare", "kind",
]  # fmt: skip
