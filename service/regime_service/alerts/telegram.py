"""Messages of a Telegram bot of yours.

Talk to @BotFather for a token, write to the bot (or add it to a group), and put the chat's number into `chat_id`.
Text is HTML, of which only three signs have a meaning: whatever stands in a model's name cannot break a message.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from regime_service.alerts import Alert, ChannelOptions, Delivery, Secrets, by_http, paragraphs, subject
from regime_service.posting import target, trusting

TEXT_MAX = 4096
"""Telegram's limit, counted without markup."""
_EXPLAINED = {
    400: "is `chat_id` right, and has somebody written to the bot?",
    401: "the token is wrong or was revoked",
    403: "the bot was blocked, or is no longer in that chat",
    404: "the token is wrong",
}


class Options(ChannelOptions, frozen=True, kw_only=True):
    """A chat with a bot of yours."""

    token_env: str = ""
    """Environment variable that holds the bot's token."""
    token_file: str = ""
    """File that holds it."""
    chat_id: Annotated[str, Meta(min_length=1)]
    """The chat, in quotes: "123456789", "-100123456789" (a group) or "@channel"."""
    silent: bool = False
    """Whether it arrives without a sound."""
    api: str = "https://api.telegram.org"
    """Where Telegram's interface is; another address for a server of your own."""
    ca_file: str = ""
    """Authorities to trust instead of the system's (PEM)."""

    def __post_init__(self) -> None:
        if not (self.token_env or self.token_file):
            raise ValueError("it needs `token_env` or `token_file`, which say where the bot's token is")


class Telegram:
    OPTIONS = Options
    batch_max = 7
    """So many fit into one message, whatever their length."""

    def __init__(self, options: Options, secrets: Secrets) -> None:
        # The token is part of the address: what is shown of an address is its host only.
        self._to = target(f"{options.api.rstrip('/')}/bot{secrets.need('token')}/sendMessage")
        self._chat, self._silent = options.chat_id, options.silent
        self._context = trusting(options.ca_file) if self._to.secure else None

    def send(self, alerts: Sequence[Alert], *, within_s: float) -> Delivery:
        body = {
            "chat_id": self._chat, "text": as_html(alerts), "parse_mode": "HTML",
            "link_preview_options": {"is_disabled": True}, "disable_notification": self._silent,
        }  # fmt: skip
        raw = msgspec.json.encode(body)
        headers = {"Content-Type": "application/json"}
        return by_http(
            self._to, raw, headers, within_s=within_s, context=self._context, explained=_EXPLAINED
        )  # fmt: skip


def as_html(alerts: Sequence[Alert]) -> str:
    """Return the message. It is cut by whole lines, before markup is added, so that no tag is ever left open."""
    left = TEXT_MAX - 16
    lines = [f"<b>{html.escape(subject(alerts)[:256], quote=False)}</b>"]
    left -= len(subject(alerts)[:256])
    for paragraph in paragraphs(alerts):
        heading = [("", paragraph.heading)] if paragraph.heading else []
        for tag, text in [("", ""), *[("b", h) for _, h in heading], *[("", line) for line in paragraph.lines]]:
            if len(text) + 1 > left:
                return "\n".join([*lines, "..."])
            left -= len(text) + 1
            plain = html.escape(text, quote=False)
            lines.append(f"<{tag}>{plain}</{tag}>" if tag else plain)
    return "\n".join(lines)


__plugin__ = Telegram
