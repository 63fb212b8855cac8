"""An incoming webhook of Slack (Mattermost and Rocket.Chat take the same).

The text travels as `plain_text`, in which stars and underlines mean nothing: features are called `atr_pct_14`, and
whoever names a model `<!channel>` wakes nobody but the one who asked for it. The address is the secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from regime_service.alerts import Alert, ChannelOptions, Delivery, Secrets, by_http, paragraphs, subject
from regime_service.posting import target, trusting

HEADER_MAX = 150
TEXT_MAX = 3000
BLOCKS_MAX = 50
_EXPLAINED = {
    403: "the webhook was switched off",
    404: "the webhook does not exist any more; make a new one",
    410: "the channel is gone; make a new webhook",
}


class Options(ChannelOptions, frozen=True, kw_only=True):
    """A channel of Slack."""

    url_env: str = ""
    """Environment variable that holds the webhook's address, which is a secret."""
    url_file: str = ""
    """File that holds it."""
    ca_file: str = ""
    """Authorities to trust instead of the system's (PEM)."""

    def __post_init__(self) -> None:
        if not (self.url_env or self.url_file):
            raise ValueError("it needs `url_env` or `url_file`: the address of a Slack webhook is a secret")


class Slack:
    OPTIONS = Options
    batch_max = 10

    def __init__(self, options: Options, secrets: Secrets) -> None:
        self._to = target(secrets.need("url"))
        self._context = trusting(options.ca_file) if self._to.secure else None

    def send(self, alerts: Sequence[Alert], *, within_s: float) -> Delivery:
        raw = msgspec.json.encode({"text": escaped(subject(alerts)), "blocks": blocks(alerts)})
        headers = {"Content-Type": "application/json"}
        return by_http(
            self._to, raw, headers, within_s=within_s, context=self._context, explained=_EXPLAINED
        )  # fmt: skip


def blocks(alerts: Sequence[Alert]) -> list[dict[str, Any]]:
    """Return the message as Slack's blocks."""
    found = [{"type": "header", "text": _plain(subject(alerts), HEADER_MAX)}]
    for paragraph in paragraphs(alerts):
        text = "\n".join([*([f"{paragraph.heading}:"] if paragraph.heading else []), *paragraph.lines])
        if text:
            found.append({"type": "section", "text": _plain(text, TEXT_MAX)})
    return found[:BLOCKS_MAX]


def escaped(text: str) -> str:
    """Return text for the one place where Slack reads markup: the line of the notification.

    >>> escaped("<!channel> & co")
    '&lt;!channel&gt; &amp; co'
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _plain(text: str, length_max: int) -> dict[str, Any]:
    short = text if len(text) <= length_max else text[: length_max - 3] + "..."
    return {"type": "plain_text", "text": short, "emoji": False}


__plugin__ = Slack
