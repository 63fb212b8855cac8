"""The edges: every file here meets the world in exactly one way."""
