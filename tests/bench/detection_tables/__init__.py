"""The tables of `bench_detection.py`, one file each, and what they share: `limits`, `streams`, `frouros_peer`."""
