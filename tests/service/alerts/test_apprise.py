"""apprise behind our outbox: what it lacks is said, and a try that hangs is not repeated beside itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from alert_receivers import HttpReceiver

from regime.config import from_mapping
from regime.errors import OperatorError
from regime_service.alerts import Alert, Channel, Secrets, make_channel
from regime_service.alerts.apprise import Options

ALERT = Alert(
    key="rg-1", kind="paused", name="RegimePaused", at_ms=1, recorded_ms=1, subject="PAUSED", happened="h"
)  # fmt: skip


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    server = HttpReceiver()
    yield server
    server.close()


def channel(url: str) -> Channel:
    options = from_mapping({"name": "x", "kind": "apprise", "url_env": "U"}, Options)
    return make_channel(options, Secrets({"url": url}))


def test_an_address_it_does_not_know_is_refused_without_the_address() -> None:
    with pytest.raises(OperatorError, match="does not understand the address") as refused:
        channel("pigeon://secret-loft")
    assert "secret-loft" not in str(refused.value)


def test_where_it_is_not_installed_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(OperatorError, match=r"pip install 'regimegate\[alerts\]'"):
        channel("json://127.0.0.1/")


def test_while_a_try_still_waits_nothing_is_sent_beside_it(receiver: HttpReceiver) -> None:
    receiver.mood = "silent"
    sender = channel(f"json://127.0.0.1:{receiver.port}/x")
    first = sender.send([ALERT], within_s=1.0)
    second = sender.send([ALERT], within_s=1.0)
    assert (first.result, second.result) == ("later", "later")
    assert "did not answer within 1 s" in first.reason
    assert "still waits" in second.reason
    assert len(receiver.requests) == 1
