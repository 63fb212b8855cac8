"""The pure core: turns events into decisions."""
