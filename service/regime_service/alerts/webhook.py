"""Signed POSTs to a program of yours, or to one that reads what Alertmanager sends.

Signed as Standard Webhooks are, so that its libraries check them:

    webhook-id: KEY                    the same when the same alert is sent again: an alert of a known id is old news
    webhook-timestamp: 1762146300      seconds; refuse what is older than some minutes
    webhook-signature: v1,BASE64       HMAC-SHA256 of "ID.TIMESTAMP.BODY" under the secret

A secret that begins with `whsec_` is the base64 behind it, any other is taken as it stands.

`format = "alertmanager"` writes the JSON of Alertmanager's webhook (version 4): one alert a side, `firing` while a
pause stands and `resolved` after it, with labels that stay the same between the two.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from regime.errors import OperatorError
from regime_service.alerts import Alert, ChannelOptions, Delivery, Secrets, by_http
from regime_service.posting import target, trusting

FORMAT_VERSION = 1
SECRET_LENGTH_MIN = 16


class Options(ChannelOptions, frozen=True, kw_only=True):
    """A webhook of your own."""

    url: str = ""
    """Where to; where the address itself is a secret, use `url_env` or `url_file`."""
    url_env: str = ""
    """Environment variable that holds the address."""
    url_file: str = ""
    """File that holds the address."""
    secret_env: str = ""
    """Environment variable that holds the secret the body is signed with."""
    secret_file: str = ""
    """File that holds that secret."""
    format: Literal["regimegate", "alertmanager"] = "regimegate"
    """What the body looks like."""
    ca_file: str = ""
    """Authorities to trust instead of the system's (PEM), for a certificate of your own."""

    def __post_init__(self) -> None:
        if not (self.url or self.url_env or self.url_file):
            raise ValueError("it needs a `url` (or `url_env`, `url_file`)")
        if not (self.secret_env or self.secret_file):
            raise ValueError("it needs `secret_env` or `secret_file`: unsigned, anybody could send such a message")


class Webhook:
    OPTIONS = Options
    batch_max = 1
    """Each alert its own request: the id of the request is the key of the alert."""

    def __init__(self, options: Options, secrets: Secrets) -> None:
        self._to = target(secrets.get("url") or options.url)
        self._secret = signing_key(secrets.need("secret"))
        self._format = options.format
        self._name = options.name
        self._context = trusting(options.ca_file) if self._to.secure else None

    def send(self, alerts: Sequence[Alert], *, within_s: float) -> Delivery:
        alert = alerts[0]
        body = alertmanager(alert, self._name) if self._format == "alertmanager" else own(alert)
        raw = msgspec.json.encode(body)
        headers = {"Content-Type": "application/json", **signed(self._secret, alert.key, int(time.time()), raw)}
        return by_http(self._to, raw, headers, within_s=within_s, context=self._context)


def signing_key(secret: str) -> bytes:
    """Return the bytes to sign with.

    >>> signing_key("whsec_" + "QUJD" * 8)[:3]
    b'ABC'
    """
    if secret.startswith("whsec_"):
        try:
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except (binascii.Error, ValueError):
            raise OperatorError("what stands behind whsec_ in the secret is not base64") from None
    else:
        key = secret.encode()
    if len(key) < SECRET_LENGTH_MIN:
        raise OperatorError(f"the secret is too short to sign with; use {SECRET_LENGTH_MIN} bytes or more")
    return key


def signed(secret: bytes, key: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """Return the headers that a receiver checks before it believes anything in `body`."""
    signature = hmac.new(secret, f"{key}.{timestamp_s}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": key, "webhook-timestamp": str(timestamp_s),
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }  # fmt: skip


def own(alert: Alert) -> dict[str, Any]:
    """Return our own body: every field of the alert."""
    return {"format": FORMAT_VERSION, **msgspec.to_builtins(alert)}


def alertmanager(alert: Alert, receiver: str) -> dict[str, Any]:
    """Return what Alertmanager's webhook would have sent."""
    common = {"alertname": alert.name}
    common |= {n: v for n, v in (("model", alert.model), ("symbol", alert.symbol), ("timeframe", alert.timeframe)) if v}
    if alert.shadow:
        common["mode"] = "shadow"
    # Not by urgency: what is resolved must bear the labels it was fired with.
    common["severity"] = "info" if alert.shadow or alert.kind == "test" else "critical"
    annotations = {"summary": alert.subject, "description": alert.happened}
    for name, text in (
        ("evidence", "; ".join(alert.evidence)), ("action", alert.now), ("resume", "; ".join(alert.lift))
    ):  # fmt: skip
        if text:
            annotations[name] = text
    labels = [{**common, "reason": code} for code in alert.faults] if alert.name == "RegimeFault" else []
    labels = labels or [{**common, "side": side} for side in alert.sides] or [common]
    if alert.kind == "resumed":
        # The faults that were added to the pause have ended with it.
        labels += [{**common, "alertname": "RegimeFault", "reason": code} for code in alert.faults]
    status = "resolved" if alert.resolved else "firing"
    alerts = [
        {
            "status": status, "labels": each, "annotations": annotations,
            "startsAt": _rfc3339(alert.since_ms or alert.at_ms),
            "endsAt": _rfc3339(alert.at_ms) if alert.resolved else "0001-01-01T00:00:00Z",
            "generatorURL": alert.link, "fingerprint": _fingerprint(each),
        }
        for each in labels
    ]  # fmt: skip
    group = ", ".join(f'{name}="{_quoted(value)}"' for name, value in sorted(common.items()))
    return {
        "version": "4", "groupKey": "{}:{" + group + "}", "truncatedAlerts": 0, "status": status,
        "receiver": receiver, "groupLabels": common, "commonLabels": common, "commonAnnotations": annotations,
        "externalURL": alert.link, "alerts": alerts,
    }  # fmt: skip


def _quoted(text: str) -> str:
    return re.sub(r'(["\\])', r"\\\1", text)


def _fingerprint(labels: dict[str, str]) -> str:
    return hashlib.sha256(msgspec.json.encode(sorted(labels.items()))).hexdigest()[:16]


def _rfc3339(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


__plugin__ = Webhook
