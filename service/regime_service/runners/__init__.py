"""Who runs the engine: embedded (one writer thread in the service)."""
