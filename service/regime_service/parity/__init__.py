"""`regime parity`: what the bot logged against what its backtest computed, and the likeliest cause of what differs.

reading.py      files of either side into tables: candles, features and probabilities under one set of names
run.py          the command: which pairs, which files, what to print, which exit code
words.py        a report in words
page.py         the same as a page and as CSV
"""

from __future__ import annotations

from regime_service.parity.run import ParityOptions, run_parity

__all__ = ["ParityOptions", "run_parity"]
