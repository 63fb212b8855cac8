"""What every alert channel promises, tried against a receiver on loopback that behaves as it is told to.

A new file in service/regime_service/alerts/ needs a bench here: how to point it at a receiver, and how to read what
arrived.
"""

from __future__ import annotations

import email
import email.policy
import html
import html.parser
import logging
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from alert_receivers import HttpReceiver, MailReceiver, Receiver, certificate

from regime.config import from_mapping
from regime_service.alerts import Alert, Channel, Secrets, channel_class, kinds, make_channel

WITHIN_S = 0.6
TOKEN = "s3cret-t0ken-of-the-channel"
HOSTILE = "<b>&amp; *bold* _it_ `x` <!channel> https://x/?a=1&b=2 Müßig 漢字 🙂 [l](u) {{ }} \\ \"q\" 'q' %s"


def alert(**changes: Any) -> Alert:
    usual: dict[str, Any] = {
        "key": "rg-1", "kind": "paused", "name": "RegimePaused", "at_ms": 1_762_146_300_000,
        "recorded_ms": 1_762_146_300_500, "subject": "PAUSED: m BTC/USDT:USDT 5m, long (win-rate)",
        "happened": "The bot takes no new entries, long: 2 wins in the last 10 trades.",
        "evidence": ["win-rate: 2 wins in the last 10 trades"], "now": "long: no new entries.",
        "lift": ["5 of 10 trades win"], "link": "https://regime.example.org/", "model": "m",
        "symbol": "BTC/USDT:USDT", "timeframe": "5m", "version": 7, "sides": ["long"], "codes": ["win-rate"],
    }  # fmt: skip
    return Alert(**{**usual, **changes})


class Bench(NamedTuple):
    """One kind of channel at a receiver."""

    options: Callable[[int, str, str], dict[str, Any]]
    """(port, "http" or "https", file of authorities) -> its options."""
    secrets: Callable[[int, str], dict[str, str]]
    texts: Callable[[Any], str]
    """A request -> all text that a person sees, without markup."""
    says_why: bool = True
    """Whether it can tell a refusal from a failure."""
    mail: bool = False
    trusts: bool = True
    """Whether it can be told of authorities of one's own."""


class _Markup(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text, self.open = "", 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag == "b", f"Telegram knows no <{tag}> here"
        self.open += 1

    def handle_endtag(self, tag: str) -> None:
        self.open -= 1

    def handle_data(self, data: str) -> None:
        self.text += data


def telegram_text(request: Any) -> str:
    said = request.json()
    assert said["parse_mode"] == "HTML"
    markup = _Markup()
    markup.feed(said["text"])
    markup.close()
    assert markup.open == 0
    assert len(markup.text) <= 4096
    return markup.text


def slack_text(request: Any) -> str:
    said = request.json()
    assert all(block["text"]["type"] == "plain_text" for block in said["blocks"])
    assert len(said["blocks"]) <= 50
    assert all(len(block["text"]["text"]) <= (150 if block["type"] == "header" else 3000) for block in said["blocks"])
    return "\n".join(block["text"]["text"] for block in said["blocks"])


def mail_text(request: Any) -> str:
    mail = email.message_from_bytes(request.body, policy=email.policy.default)
    assert mail["Auto-Submitted"] == "auto-generated"
    return f"{mail['Subject']}\n{mail.get_content()}"


def webhook_text(request: Any) -> str:
    said = request.json()
    return "\n".join([said["subject"], said["happened"], *said["evidence"], said["now"], *said["lift"], said["link"]])


BENCHES = {
    "webhook": Bench(
        lambda port, scheme, ca: {
            "url": f"{scheme}://127.0.0.1:{port}/hook", "secret_env": "S", "ca_file": ca, "format": "regimegate"},
        lambda port, scheme: {"secret": TOKEN}, webhook_text,
    ),
    "telegram": Bench(
        lambda port, scheme, ca: {
            "token_env": "T", "chat_id": "1", "api": f"{scheme}://127.0.0.1:{port}", "ca_file": ca},
        lambda port, scheme: {"token": TOKEN}, telegram_text,
    ),
    "slack": Bench(
        lambda port, scheme, ca: {"url_env": "U", "ca_file": ca},
        lambda port, scheme: {"url": f"{scheme}://127.0.0.1:{port}/services/T00/{TOKEN}"}, slack_text,
    ),
    "email": Bench(
        lambda port, scheme, ca: {
            "host": "127.0.0.1", "port": port, "tls": "tls" if scheme == "https" else "none", "user": "bot",
            "password_env": "P", "sender": "bots@example.org", "to": ["ana@example.org", "bo@example.org"],
            "ca_file": ca},
        lambda port, scheme: {"password": TOKEN}, mail_text, mail=True,
    ),
    "apprise": Bench(
        lambda port, scheme, ca: {"url_env": "U"},
        lambda port, scheme: {"url": f"{'jsons' if scheme == 'https' else 'json'}://127.0.0.1:{port}/{TOKEN}"},
        lambda request: "{title}\n{message}".format(**request.json()), says_why=False, trusts=False,
    ),
}  # fmt: skip


class Tried(NamedTuple):
    channel: Channel
    receiver: Receiver
    bench: Bench

    def send(self, mood: str, *alerts: Alert) -> Any:
        self.receiver.mood = mood
        return self.channel.send(alerts or [alert()], within_s=WITHIN_S)


def make(kind: str, port: int, scheme: str = "http", ca: str = "", **changes: Any) -> Channel:
    bench = BENCHES[kind]
    mapping = {"name": "x", "kind": kind, **bench.options(port, scheme, ca), **changes}
    options = from_mapping(mapping, channel_class(kind).OPTIONS)
    return make_channel(options, Secrets(bench.secrets(port, scheme)))


def receiver(kind: str, tls: ssl.SSLContext | None = None) -> Receiver:
    if not BENCHES[kind].mail:
        return HttpReceiver(tls)
    mail = MailReceiver(tls=tls)
    mail.password = TOKEN
    return mail


@pytest.fixture(params=sorted(BENCHES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tried(kind: str) -> Iterator[Tried]:
    server = receiver(kind)
    yield Tried(make(kind, server.port), server, BENCHES[kind])
    server.close()


def test_every_channel_of_the_folder_has_a_bench() -> None:
    assert kinds() == sorted(BENCHES)


def test_what_is_delivered_holds_what_happened_why_what_the_bot_does_and_what_lifts_it(tried: Tried) -> None:
    assert tried.send("ok") == ("delivered", "", None)
    assert len(tried.receiver.requests) == 1
    seen = " ".join(tried.bench.texts(tried.receiver.requests[0]).split())
    one = alert()
    for text in (one.subject, one.happened, *one.evidence, one.now, *one.lift, one.link):
        assert text in seen, text


def test_several_go_into_one_message_where_it_can_hold_them(tried: Tried) -> None:
    if tried.channel.batch_max == 1:
        assert tried.bench.texts is webhook_text
        return
    several = [alert(key=f"rg-{i}", subject=f"PAUSED: number {i}") for i in range(tried.channel.batch_max)]
    assert tried.send("ok", *several).result == "delivered"
    assert len(tried.receiver.requests) == 1
    seen = tried.bench.texts(tried.receiver.requests[0])
    assert all(f"PAUSED: number {i}" in seen for i in range(tried.channel.batch_max))


def test_the_longest_alerts_fit_all_together(tried: Tried) -> None:
    long = [
        alert(
            key=f"rg-{i}", subject=f"PAUSED {i}: " + "s" * 120, happened="h" * 400, evidence=["e" * 400] * 8,
            now="n" * 400, lift=["l" * 400] * 8,
        )
        for i in range(tried.channel.batch_max)
    ]  # fmt: skip
    for batch in (long[:1], long):
        assert tried.send("ok", *batch).result == "delivered"
        seen = tried.bench.texts(tried.receiver.requests[-1])
        assert all(f"PAUSED {i}: " in seen for i in range(len(batch)))


def test_text_from_outside_means_nothing_in_the_receivers_markup(tried: Tried) -> None:
    sent = alert(subject=f"PAUSED: {HOSTILE}", happened=HOSTILE, evidence=[HOSTILE], now=HOSTILE, lift=[HOSTILE])
    assert tried.send("ok", sent).result == "delivered"
    seen = " ".join(tried.bench.texts(tried.receiver.requests[0]).split())
    assert seen.count(" ".join(HOSTILE.split())) >= 5


@pytest.mark.parametrize(
    ("mood", "result"),
    [("refuse", "never"), ("busy", "later"), ("broken", "later"), ("silent", "later"), ("drip", "later"),
     ("cut", "later"), ("garbage", "later")],
)  # fmt: skip
def test_a_receiver_that_does_not_take_it_is_told_apart_in_time(tried: Tried, mood: str, result: str) -> None:
    began_s = time.monotonic()
    delivery = tried.send(mood)
    # A good deal of room: the machine is shared. Without a limit on the whole, `drip` takes a minute.
    assert time.monotonic() - began_s < WITHIN_S + 5
    if not tried.bench.says_why and result == "never":
        result = "later"
    assert delivery.result == result, delivery
    assert delivery.reason
    if mood == "busy" and tried.bench.says_why and not tried.bench.mail:
        assert delivery.retry_after_s == 7.0
    # And it works again afterwards.
    if tried.bench.says_why:
        assert tried.send("ok").result == "delivered"


def test_a_receiver_that_is_not_there_is_tried_again_later(kind: str) -> None:
    gone = receiver(kind)
    gone.close()
    delivery = make(kind, gone.port).send([alert()], within_s=WITHIN_S)
    assert delivery.result == "later"
    assert "nobody listens" in delivery.reason or not BENCHES[kind].says_why


def test_a_certificate_nobody_vouches_for_is_refused_and_one_of_ones_own_can_be_trusted(
    kind: str, tmp_path: Path
) -> None:
    file, context = certificate(tmp_path)
    server = receiver(kind, context)
    try:
        delivery = make(kind, server.port, "https").send([alert()], within_s=5.0)
        assert (delivery.result, server.requests) == ("later", [])
        if BENCHES[kind].says_why:
            assert "certificate" in delivery.reason
        if BENCHES[kind].trusts:
            trusting = make(kind, server.port, "https", str(file))
            assert trusting.send([alert()], within_s=5.0).result == "delivered"
    finally:
        server.close()


@pytest.mark.parametrize("mood", ["refuse", "broken", "cut", "silent"])
def test_secrets_stand_in_no_message_no_log_line_and_no_repr(
    tried: Tried, mood: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    tried.receiver.echo = True
    shown = tried.send(mood).reason + repr(tried.channel) + str(tried.channel)
    shown += caplog.text + "".join(capfd.readouterr())
    assert TOKEN not in shown
    # The receiver did hear it (but for a mail server that hung up before it was told): there was something to hide.
    if not tried.bench.mail:
        heard = tried.receiver.requests[0]
        assert TOKEN in heard.path or "webhook-signature" in heard.headers


def test_a_channel_that_fails_in_an_unforeseen_way_raises_nothing_and_tells_nothing(kind: str) -> None:
    delivery = make(kind, 9).send([None], within_s=WITHIN_S)  # type: ignore[list-item]
    assert delivery.result == "later"
    assert delivery.reason.startswith("the channel failed: ")
