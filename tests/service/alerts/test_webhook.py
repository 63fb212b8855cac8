"""The webhook: a signature that anybody can check, and the JSON of Alertmanager."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Iterator
from typing import Any

import pytest
from alert_receivers import HttpReceiver

from regime.config import from_mapping
from regime.errors import OperatorError
from regime_service.alerts import Alert, Channel, Secrets, make_channel
from regime_service.alerts.webhook import Options, alertmanager, signing_key

SECRET = "sixteen or more bytes of it"


def alert(**changes: Any) -> Alert:
    usual: dict[str, Any] = {
        "key": "rg-1", "kind": "paused", "name": "RegimePaused", "at_ms": 1_762_146_300_000,
        "recorded_ms": 1_762_146_300_500, "subject": "s", "happened": "h", "evidence": ["e"], "lift": ["l"],
        "model": 'm"1\\', "symbol": "BTC/USDT:USDT", "timeframe": "5m", "sides": ["long", "short"],
        "since_ms": 1_762_146_000_000, "link": "https://x/",
    }  # fmt: skip
    return Alert(**{**usual, **changes})


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    server = HttpReceiver()
    yield server
    server.close()


def channel(receiver: HttpReceiver, secret: str = SECRET, **changes: Any) -> Channel:
    mapping = {"name": "x", "kind": "webhook", "url": f"http://127.0.0.1:{receiver.port}/a?b=c", "secret_env": "S"}
    return make_channel(from_mapping({**mapping, **changes}, Options), Secrets({"secret": secret}))


@pytest.mark.parametrize(
    ("secret", "raw"), [(SECRET, SECRET.encode()), ("whsec_" + base64.b64encode(b"k" * 24).decode(), b"k" * 24)]
)
def test_the_signature_is_that_of_standard_webhooks(receiver: HttpReceiver, secret: str, raw: bytes) -> None:
    """As https://www.standardwebhooks.com says it; computed here from its text, not with our code."""
    assert channel(receiver, secret).send([alert()], within_s=5.0).result == "delivered"
    (got,) = receiver.requests
    assert got.path == "/a?b=c"
    assert got.headers["webhook-id"] == "rg-1" == got.json()["key"]
    assert abs(int(got.headers["webhook-timestamp"]) - time.time()) < 60
    signed = f"{got.headers['webhook-id']}.{got.headers['webhook-timestamp']}.".encode() + got.body
    expected = base64.b64encode(hmac.new(raw, signed, hashlib.sha256).digest()).decode()
    assert got.headers["webhook-signature"] == f"v1,{expected}"


def test_each_try_is_signed_with_its_own_time_under_the_same_id(receiver: HttpReceiver) -> None:
    sender = channel(receiver)
    receiver.mood = "broken"
    sender.send([alert()], within_s=5.0)
    time.sleep(1.1)
    sender.send([alert()], within_s=5.0)
    first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]


@pytest.mark.parametrize(
    ("changes", "secret", "message"),
    [
        ({}, "tiny", "too short"),
        ({}, "whsec_!!!", "not base64"),
        ({}, "", "`secret_env` or `secret_file`"),
        ({"url": "ftp://x/"}, SECRET, "no URL"),
        ({"url": "https://user:pw@x/"}, SECRET, "holds a user"),
        ({"url": "https://x:99999/"}, SECRET, "no URL"),
        ({"url": "https://x/", "ca_file": "/no/such.pem"}, SECRET, "certificates"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start_without_its_secrets(
    receiver: HttpReceiver, changes: dict[str, str], secret: str, message: str
) -> None:
    with pytest.raises(OperatorError, match=message) as refused:
        channel(receiver, secret, **changes)
    assert "pw" not in str(refused.value).replace("alert channel", "")


def test_a_redirect_is_not_followed_and_not_tried_again(receiver: HttpReceiver) -> None:
    receiver.mood = "moved"
    delivery = channel(receiver).send([alert()], within_s=5.0)
    assert delivery.result == "never"
    assert "redirects are not followed" in delivery.reason


def test_alertmanagers_json_has_an_alert_for_each_side(receiver: HttpReceiver) -> None:
    assert channel(receiver, format="alertmanager").send([alert()], within_s=5.0).result == "delivered"
    said = receiver.requests[0].json()
    assert {k: said[k] for k in ("version", "status", "receiver", "truncatedAlerts", "externalURL")} == {
        "version": "4", "status": "firing", "receiver": "x", "truncatedAlerts": 0, "externalURL": "https://x/",
    }  # fmt: skip
    common = {
        "alertname": "RegimePaused", "model": 'm"1\\', "symbol": "BTC/USDT:USDT", "timeframe": "5m",
        "severity": "critical",
    }  # fmt: skip
    assert said["commonLabels"] == said["groupLabels"] == common
    assert [one["labels"] for one in said["alerts"]] == [{**common, "side": side} for side in ("long", "short")]
    assert len({one["fingerprint"] for one in said["alerts"]}) == 2
    first = said["alerts"][0]
    assert (first["startsAt"], first["endsAt"]) == ("2025-11-03T05:00:00.000Z", "0001-01-01T00:00:00Z")
    assert first["annotations"] == {"summary": "s", "description": "h", "evidence": "e", "resume": "l"}
    assert r'model="m\"1\\"' in said["groupKey"]


def test_what_is_resolved_bears_the_labels_with_which_it_fired() -> None:
    def prints(one: Alert) -> set[str]:
        return {each["fingerprint"] for each in alertmanager(one, "x")["alerts"]}

    fired, over = alert(), alert(kind="resumed", resolved=True, urgent=False)
    reminder = alert(kind="still", urgent=False)
    assert prints(fired) == prints(over) == prints(reminder)
    assert alertmanager(over, "x")["status"] == "resolved"
    assert alertmanager(over, "x")["alerts"][0]["endsAt"] == "2025-11-03T05:05:00.000Z"
    fault = alert(kind="fault", name="RegimeFault", codes=["stale"], faults=["stale"])
    recovered = alert(kind="recovered", name="RegimeFault", codes=["stale"], faults=["stale"], resolved=True)
    assert prints(fault) == prints(recovered)
    # A pause that ends together with the fault that was added to it ends both.
    assert prints(fault) < prints(alert(kind="resumed", resolved=True, codes=["drift", "stale"], faults=["stale"]))
    shadow = alertmanager(alert(shadow=True, urgent=False), "x")["commonLabels"]
    assert (shadow["mode"], shadow["severity"]) == ("shadow", "info")
    service = alert(kind="service", name="RegimeServiceDown", model="", symbol="", timeframe="", sides=[])
    assert [one["labels"] for one in alertmanager(service, "x")["alerts"]] == [
        {"alertname": "RegimeServiceDown", "severity": "critical"}
    ]


def test_a_secret_is_taken_as_it_stands_or_as_base64() -> None:
    assert signing_key("x" * 16) == b"x" * 16
    assert signing_key("whsec_" + base64.b64encode(bytes(24)).decode()) == bytes(24)
