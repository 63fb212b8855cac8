"""Offline replay: a bot's files in, a report for its trader out.

run.py          what is read, played and written, in this order; the one function others call
story.py        what happened: changes, firings of rules, time in each state, drift over time
words.py        the sentences of the report: what happened, what it means, what to do
pictures.py     the pictures: those of the page at `/`, drawn by regime_service/drawing
report.html.j2  the page: one file, no request to anybody
"""

from __future__ import annotations

from regime_service.report.run import Backtest, ReplayOptions, run_replay

__all__ = ["Backtest", "ReplayOptions", "run_replay"]
