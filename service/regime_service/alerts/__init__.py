"""Alerts: what an operator is told, and how it gets there.

    words.py     what a new answer gives reason to say (pure)
    outbox.py    durable with the decision, sent at least once, retried, given up on record
    the rest     one file a channel; a file that is new is a `kind` that is new

A channel is the last step and the simplest: it is handed alerts and says what became of them. It keeps nothing, waits
for nobody and does not try again; all of that is the outbox's part.

Rules of a channel
------------------
1. `send` returns within its time-out, and never raises for anything a receiver does.
2. Secrets come in by `Secrets` only, and stand in no message, log line, `repr` or metric.
3. "never" is for what cannot work a second time (the receiver refuses this alert, or us); all else is "later".
4. Text from outside (a model's name, the error of somebody's detector) is escaped for the receiver's own markup.
"""

from __future__ import annotations

import importlib
import ssl
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Literal, NamedTuple, Protocol, runtime_checkable

import msgspec
from msgspec import Meta

from regime.config import Section
from regime.errors import OperatorError
from regime.plugins import available, load
from regime_service.posting import NotPosted, Target, post

Kind = Literal["paused", "fault", "still", "resumed", "recovered", "service", "test"]
"""`fault` is one that begins while the side is paused already, `still` a reminder, `recovered` the end of a fault under
a pause that stands, `service` a failure of regimegate itself."""

OURS = ("service", "test")
"""Kinds that are about regimegate and not about a stream: nothing lifts them but somebody who does something."""
RETRY_AFTER_MAX_S = 3600.0
"""No receiver may silence us for longer."""
REASON_LENGTH_MAX = 300
LATE_MIN = 15
"""Minutes after which an alert says how old it is."""


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """Something to be said, in words; what stands in the outbox.

    `key` is the same whenever the same alert is sent again, so a receiver knows it again. `at_ms` is the time of the
    decision, `recorded_ms` when it was written down. `urgent` ones are not held back by quiet hours. `name` groups
    alerts as Alertmanager does; `resolved` says that something is over. `codes` are those of its reasons, `faults`
    those among them that are faults. All text is one line each and without markup.
    """

    key: str
    kind: Kind
    name: str
    at_ms: int
    recorded_ms: int
    subject: str
    happened: str
    evidence: list[str] = []
    now: str = ""
    lift: list[str] = []
    link: str = ""
    model: str = ""
    symbol: str = ""
    timeframe: str = ""
    version: int = 0
    sides: list[str] = []
    codes: list[str] = []
    faults: list[str] = []
    since_ms: int = 0
    resolved: bool = False
    urgent: bool = True
    shadow: bool = False

    @property
    def about(self) -> tuple[str, str, str]:
        """What it is about; alerts about the same thing are sent in order."""
        return (self.model, self.symbol, self.timeframe)


class Delivery(NamedTuple):
    """What became of one try. `reason` says why not, in a sentence without secrets."""

    result: Literal["delivered", "later", "never"]
    reason: str = ""
    retry_after_s: float | None = None
    """How long the receiver asks to be left alone."""


DELIVERED = Delivery("delivered")


@runtime_checkable
class Channel(Protocol):
    """A way to a person or a program. The suite in `tests/contracts/test_channels.py` is this docstring as code.

    A class is made with its options and its secrets, and raises `OperatorError` where they cannot work. Two threads may
    use it at once: a service that fails says so beside whatever is being sent.
    """

    @property
    def batch_max(self) -> int:
        """Alerts it can put into one message; what waits longer than that goes into the next."""
        ...

    def send(self, alerts: Sequence[Alert], *, within_s: float) -> Delivery:
        """Try once to deliver these, oldest first, as one message. Returns within `within_s` and a little."""
        ...


class ChannelOptions(Section, frozen=True, kw_only=True):
    """What every channel has. The `OPTIONS` of a kind add the rest; `x_env` or `x_file` say where the secret `x` is."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    """Your word for it: in metrics, lists and `regime alerts test NAME`."""
    kind: str
    """A file in service/regime_service/alerts/, or the dotted path of a class of yours."""
    timeout_s: Annotated[float, Meta(ge=0.1, le=60.0)] = 10.0
    """Seconds for one try."""


class Secrets:
    """The secrets of one channel, by name. Prints none of them."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = {name: value for name, value in values.items() if value}
        self._hidden = set(self._values.values())
        for value in self._values.values():
            # A receiver that minds something repeats the path it was asked for, not the whole address.
            path = value.partition("://")[2].partition("/")[2]
            self._hidden |= {part for part in (path, *path.split("/")) if len(part) >= 8}

    def __repr__(self) -> str:
        return f"Secrets({', '.join(self._values) or 'none'})"

    def get(self, name: str) -> str:
        """Return a secret, empty where it was not configured."""
        return self._values.get(name, "")

    def need(self, name: str) -> str:
        """Return a secret. Raises `OperatorError` where it was not configured."""
        if name not in self._values:
            raise OperatorError(f"`{name}_env` or `{name}_file` must say where its {name} is")
        return self._values[name]

    def scrub(self, text: str) -> str:
        """Return `text` without any of them, as one line of bounded length.

        >>> Secrets({"token": "abc123"}).scrub("POST /botabc123/send was refused")
        'POST /bot***/send was refused'
        """
        for value in sorted(self._hidden, key=len, reverse=True):
            text = text.replace(value, "***")
        line = "".join(c if c.isprintable() else " " for c in text.strip())
        return line if len(line) <= REASON_LENGTH_MAX else line[: REASON_LENGTH_MAX - 3] + "..."


def kinds() -> list[str]:
    """Return the kinds there are, for messages."""
    return [n for n in available(__name__) if hasattr(importlib.import_module(f"{__name__}.{n}"), "__plugin__")]


def channel_class(kind: str) -> type[Any]:
    """Return the class that `kind` names; its `OPTIONS` say what it is configured with. Raises `OperatorError`."""
    try:
        found = load(__name__, kind)
    except OperatorError:
        raise OperatorError(f"there is no channel of kind {kind!r}; known are {', '.join(kinds())}") from None
    options = getattr(found, "OPTIONS", None)
    if not (isinstance(options, type) and issubclass(options, ChannelOptions)):
        raise OperatorError(f"{kind!r} has no `OPTIONS` made from ChannelOptions")
    return found


class Guarded:
    """A channel that keeps the first two rules, whatever the one within does. It raises nothing and tells no secret."""

    def __init__(self, channel: Channel, secrets: Secrets) -> None:
        self._channel, self._secrets = channel, secrets

    @property
    def batch_max(self) -> int:
        return self._channel.batch_max

    def send(self, alerts: Sequence[Alert], *, within_s: float) -> Delivery:
        try:
            delivery = self._channel.send(alerts, within_s=within_s)
        except Exception as error:
            # Its name only: what stands in the text of an error that nobody foresaw is not known.
            return Delivery("later", f"the channel failed: {type(error).__name__}")
        return delivery._replace(reason=self._secrets.scrub(delivery.reason))


def make_channel(options: ChannelOptions, secrets: Secrets) -> Channel:
    """Return the channel that `options` describe. Raises `OperatorError` with its name and what is wrong."""
    try:
        made = channel_class(options.kind)(options, secrets)
    except OperatorError as error:
        raise OperatorError(f"alert channel {options.name!r}: {secrets.scrub(str(error))}") from None
    if not isinstance(made, Channel):
        raise OperatorError(f"alert channel {options.name!r}: {type(made).__name__} has no `batch_max` and `send`")
    return Guarded(made, secrets)


# --- what channels over HTTP share ----------------------------------------------------------------------------------


def by_http(
    to: Target,
    body: bytes,
    headers: Mapping[str, str],
    *,
    within_s: float,
    context: ssl.SSLContext | None = None,
    explained: Mapping[int, str] | None = None,
) -> Delivery:
    """POST and say what became of it by the status; `explained` adds what a status means to this receiver.

    408, 425, 429 and 5xx pass; every other answer but 2xx would be the same the next time.
    """
    try:
        answer = post(to, body, {"User-Agent": "regimegate", **headers}, within_s=within_s, context=context)
    except NotPosted as error:
        return Delivery("later", str(error))
    if 200 <= answer.status < 300:
        return DELIVERED
    said = " ".join(answer.text.split())[:160]
    reason = f"{to.shown} answered {answer.status}"
    if meaning := (explained or {}).get(answer.status):
        reason += f" ({meaning})"
    if said:
        reason += f": {said}"
    if answer.status in (408, 425, 429) or answer.status >= 500:
        return Delivery("later", reason, retry_after_s(answer.headers.get("retry-after", "")))
    if 300 <= answer.status < 400:
        reason += "; redirects are not followed, write the address it leads to"
    return Delivery("never", reason)


def retry_after_s(text: str, now: datetime | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks for, as a number or as a date; None where it says nothing.

    >>> retry_after_s("30"), retry_after_s("soon"), retry_after_s("1e99"), retry_after_s("999999")
    (30.0, None, None, 3600.0)
    """
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:10]), RETRY_AFTER_MAX_S)
    try:
        until = parsedate_to_datetime(text)
        seconds = (until - (now or datetime.now(UTC))).total_seconds()
    except (TypeError, ValueError):
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_MAX_S)


# --- what channels for people share ---------------------------------------------------------------------------------


class Paragraph(NamedTuple):
    """A heading (may be empty) and its lines, all plain text: a channel escapes them and adds its own markup."""

    heading: str
    lines: Sequence[str]


def utc(ms: int) -> str:
    """Return a moment as people write it.

    >>> utc(1762146300000)
    '2025-11-03 05:05 UTC'
    """
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def dated(alert: Alert, now_ms: int) -> Alert:
    """Return an alert as it is sent now: one that comes late says so first, for it may be over.

    >>> late = Alert(key="rg-1", kind="paused", name="RegimePaused", at_ms=0, recorded_ms=0, subject="PAUSED: m",
    ...              happened="h")
    >>> dated(late, 60_000).subject, dated(late, 2_700_000).subject, dated(late, 180_000_000).subject
    ('PAUSED: m', '45 min ago: PAUSED: m', '50 h ago: PAUSED: m')
    """
    minutes = (now_ms - alert.recorded_ms) // 60_000
    if minutes < LATE_MIN:
        return alert
    ago = f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
    return msgspec.structs.replace(alert, subject=f"{ago} ago: {alert.subject}")


def subject(alerts: Sequence[Alert]) -> str:
    """Return a short first line for these alerts together."""
    if len(alerts) == 1:
        return alerts[0].subject
    urgent = next((alert for alert in alerts if alert.urgent), alerts[0])
    return f"{urgent.subject}, and {len(alerts) - 1} more"


def paragraphs(alerts: Sequence[Alert]) -> list[Paragraph]:
    """Return what to say under the subject: all of one alert; of several what happened and what lifts it."""
    if len(alerts) > 1:
        several = [
            Paragraph(alert.subject, [*_short(alert), utc(alert.at_ms)]) for alert in alerts
        ]  # fmt: skip
        # At the end: a channel that is short of room cuts there. Each names its stream.
        links = list(dict.fromkeys(alert.link for alert in alerts if alert.link))
        return [*several, *([Paragraph("", links)] if links else [])]
    alert = alerts[0]
    found = [Paragraph("", [alert.happened])]
    if alert.evidence:
        found.append(Paragraph("Evidence", [f"- {line}" for line in alert.evidence]))
    if alert.now:
        found.append(Paragraph("Your bot now", [alert.now]))
    if alert.lift:
        heading = "What to do" if alert.kind in OURS else "What would lift it"
        found.append(Paragraph(heading, [f"- {line}" for line in alert.lift]))
    about = f"{utc(alert.at_ms)}" + (f", decision {alert.version}" if alert.version else "")
    if alert.recorded_ms - alert.at_ms > 120_000:
        about += f", noticed {utc(alert.recorded_ms)}"
    found.append(Paragraph("", [about, *([alert.link] if alert.link else [])]))
    return found


def _short(alert: Alert) -> Iterable[str]:
    yield _cut(alert.happened, 220)
    if alert.lift and not alert.resolved:
        first = alert.lift[0]
        if alert.kind in OURS:
            first = f"What to do: {first}"
        elif not first.startswith("first: "):  # What to do about a fault comes before what ends its pause.
            first = f"Lifted when: {first}"
        yield _cut(first[0].upper() + first[1:], 120)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def plain_text(alerts: Sequence[Alert], length_max: int = 20_000) -> str:
    """Return the paragraphs as plain text."""
    parts = ["\n".join([*([p.heading] if p.heading else []), *p.lines]) for p in paragraphs(alerts)]
    return _cut("\n\n".join(parts), length_max)


__all__ = [
    "DELIVERED", "Alert", "Channel", "ChannelOptions", "Delivery", "Paragraph", "Secrets", "by_http", "channel_class",
    "dated", "kinds", "make_channel", "paragraphs", "plain_text", "retry_after_s", "subject", "utc",
]  # fmt: skip
