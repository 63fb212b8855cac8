"""The README tells the truth: its bot runs, its commands exist, its links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regime_service.cli import main
from regime_service.testing import Served

STREAM = {"model": "my-model", "symbol": "BTC/USDT:USDT", "timeframe": "5m"}


@pytest.fixture
def readme(repo: Path) -> str:
    return (repo / "README.md").read_text("utf-8")


def bot(readme: str, address: str) -> dict[str, Any]:
    """The bot of the README, asking `address`."""
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("127.0.0.1:8080", address), names)
    return names


def candles(start: int, count: int) -> list[dict[str, Any]]:
    return [
        {**STREAM, "ts_ms": i * 300_000, "features": {"a": float(i % 7)}, "probabilities": {"long": 0.9}}
        for i in range(start, start + count)
    ]


def test_the_bot_trades_when_told_to_and_not_when_paused_or_alone(serve: Callable[..., Served], readme: str) -> None:
    served = serve()
    names = bot(readme, served.address)
    size_for = names["size_for"]
    assert size_for("long", 0.99) == 0.0, "nothing is known of this stream yet"
    served.post("/v1/observations", candles(0, 60))
    assert size_for("long", 0.85) == 1.0
    assert size_for("long", 0.75) == 0.0, "under the entry threshold"
    served.post("/v1/overrides", {"model": "my-model", "side": "long", "state": "HALTED", "actor": "a", "reason": "b"})
    assert (size_for("long", 0.99), size_for("short", 0.99)) == (0.0, 1.0)
    served.stop()
    assert size_for("short", 0.99) == 1.0, "the answer it holds lives out its lease"
    names["good_until"] = 0.0
    assert size_for("short", 0.99) == 0.0, "silence is a pause"


def test_the_bodies_of_its_curl_lines_are_accepted(serve: Callable[..., Served], readme: str) -> None:
    served = serve()
    bodies = re.findall(
        r"curl -X POST localhost:8080(/v1/\w+) [^']*'Content-Type: application/json' -d '(.*?)'", readme, re.DOTALL
    )
    assert [path for path, _ in bodies] == ["/v1/observations", "/v1/trades", "/v1/overrides"]
    for path, body in bodies:
        answer = served.post(path, body.encode())
        assert answer.status == 200, answer.body


def test_every_make_target_and_file_it_names_exists(readme: str, repo: Path) -> None:
    makefile = (repo / "Makefile").read_text("utf-8")
    for target in set(re.findall(r"(?:`|^)make ([a-z][a-z-]*)", readme, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for link in re.findall(r"\]\(([^)#]+)\)", readme):
        assert (repo / link).exists(), link
    for path in re.findall(r"`((?:regime|service|tests|docs)/[\w./-]+)`", readme):
        assert (repo / path).exists(), path


def test_every_command_it_names_exists(readme: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in set(re.findall(r"^regime ([a-z-]+)", readme, re.MULTILINE)):
        with pytest.raises(SystemExit) as left:
            main([command, "--help"])
        assert left.value.code == 0, command
