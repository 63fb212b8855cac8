"""Rules: one file each. A rule looks at a View and gives a Vote, or None; both stand in `regime.votes`.

A rule keeps no state of its own. What it needs to know about its past (the vote it has standing, since when, when it
was last lifted) is in the View, so that hysteresis is visible in one line of the rule and survives a restart.
"""

from __future__ import annotations

from regime.votes import DataView, Evidence, Rule, View, Vote, count, flag, label, positive, ratio

__all__ = ["DataView", "Evidence", "Rule", "View", "Vote", "count", "flag", "label", "positive", "ratio"]
