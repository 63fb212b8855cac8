"""Searches, one file for each family of faults; each takes a `Pair` and the cells not explained yet, and returns
claims."""
