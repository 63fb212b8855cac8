"""A million events in short: some thousands, with the same restarts, Ticks and silences (`make replay-million`)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from million import RESTARTS, run


@pytest.mark.slow
def test_a_replay_of_the_log_is_what_was_live(tmp_path: Path) -> None:
    found = run(tmp_path, 6000)
    assert found.live == found.replayed
    assert found.control_differs, "a log that is another one must come to another state"
    assert found.starts == RESTARTS and found.kinds["tick"] > 100 and found.kinds["trade"] > 100
