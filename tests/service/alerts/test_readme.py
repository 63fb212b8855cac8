"""The receiver's code in service/README.md: it takes what our webhook sends, and nothing else."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regime_service.alerts.webhook import signed

SECRET = b"sixteen or more bytes of it"


@pytest.fixture(scope="module")
def genuine() -> Callable[..., bool]:
    text = (Path(__file__).parents[3] / "service" / "README.md").read_text("utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    found: Callable[..., bool] = names["genuine"]
    return found


def test_what_we_send_is_genuine_and_what_was_changed_or_is_old_is_not(genuine: Callable[..., bool]) -> None:
    now_s, body = time.time(), b'{"key": "rg-1"}'
    headers = signed(SECRET, "rg-1", int(now_s), body)
    assert genuine(SECRET, headers, body, now_s)
    assert not genuine(SECRET, headers, body + b" ", now_s)
    assert not genuine(b"another secret, as long", headers, body, now_s)
    assert not genuine(SECRET, {**headers, "webhook-id": "rg-2"}, body, now_s)
    assert not genuine(SECRET, headers, body, now_s + 3600)
