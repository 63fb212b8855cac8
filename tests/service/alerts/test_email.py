"""E-mail: TLS before the password, and which words of a mail server mean never."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alert_receivers import MailReceiver, certificate

from regime.config import from_mapping
from regime.errors import OperatorError
from regime_service.alerts import Alert, Channel, Secrets, make_channel
from regime_service.alerts.email import Options

PASSWORD = "hunter2-hunter2"
Make = Callable[..., Channel]


def alert(**changes: Any) -> Alert:
    usual: dict[str, Any] = {
        "key": "rg-1", "kind": "paused", "name": "RegimePaused", "at_ms": 1_762_146_300_000,
        "recorded_ms": 1_762_146_300_500, "subject": "PAUSED: Müßig 漢字", "happened": "h\u00e4lt an",
    }  # fmt: skip
    return Alert(**{**usual, **changes})


def make(port: int, password: str = PASSWORD, **changes: Any) -> Channel:
    mapping = {
        "name": "mail", "kind": "email", "host": "127.0.0.1", "port": port, "user": "bot", "password_env": "P",
        "sender": "bots@example.org", "to": ["ana@example.org", "bo@example.org"],
    }  # fmt: skip
    return make_channel(from_mapping({**mapping, **changes}, Options), Secrets({"password": password}))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[MailReceiver, str]]:
    file, context = certificate(tmp_path)
    made = MailReceiver(starttls=context)
    yield made, str(file)
    made.close()


def test_the_password_goes_over_a_protected_line_only(server: tuple[MailReceiver, str]) -> None:
    receiver, ca = server
    assert make(receiver.port, ca_file=ca).send([alert()], within_s=5.0).result == "delivered"
    assert receiver.logins == [("bot", PASSWORD)]
    receiver.starttls = None  # Somebody in between who takes the offer out.
    delivery = make(receiver.port, ca_file=ca).send([alert()], within_s=5.0)
    assert (delivery.result, len(receiver.logins)) == ("never", 1)
    assert "starttls" in delivery.reason


def test_a_server_that_is_not_trusted_never_hears_the_password(server: tuple[MailReceiver, str]) -> None:
    receiver, _ = server
    delivery = make(receiver.port).send([alert()], within_s=5.0)
    assert (delivery.result, receiver.logins) == ("later", [])
    assert "certificate" in delivery.reason


def test_a_wrong_password_is_no_matter_of_trying_again(server: tuple[MailReceiver, str]) -> None:
    receiver, ca = server
    delivery = make(receiver.port, "wrong", ca_file=ca).send([alert()], within_s=5.0)
    assert delivery.result == "never"
    assert "does not take this user and password" in delivery.reason


def test_the_mail_is_one_that_programs_understand(server: tuple[MailReceiver, str]) -> None:
    receiver, ca = server
    channel = make(receiver.port, ca_file=ca)
    channel.send([alert()], within_s=5.0)
    channel.send([alert()], within_s=5.0)
    channel.send([alert(), alert(key="rg-2")], within_s=5.0)
    mails = [email.message_from_bytes(one.body, policy=email.policy.default) for one in receiver.requests]
    first = mails[0]
    assert first["Subject"] == "[regimegate] PAUSED: Müßig 漢字"
    assert first["To"] == "ana@example.org, bo@example.org"
    assert "hält an" in first.get_content()
    assert [mail["Message-ID"] for mail in mails[:2]] == ["<rg-1@regimegate>"] * 2
    assert mails[2]["Message-ID"] not in ("<rg-1@regimegate>", "<rg-2@regimegate>")
    assert mails[2]["X-Regimegate-Keys"] == "rg-1 rg-2"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tls": "none", "host": "mail.example.org"}, "this machine only"),
        ({"password_env": ""}, "password_env"),
        ({"to": ["nobody"]}, "'nobody' is no mail address"),
        ({"sender": "a@b.c\nBcc: x@y.z"}, "is no mail address"),
        ({"to": []}, "`to`"),
        ({"tls": "ssl"}, "unknown value 'ssl'"),
    ],
)
def test_what_cannot_work_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        make(25, **changes)
