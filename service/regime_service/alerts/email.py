"""E-mail by a server of yours (SMTP), under TLS.

`tls = "starttls"` (port 587) or `"tls"` from the first byte (port 465). `"none"` is for a server on this machine only.
The `Message-ID` is made from the alerts' keys: most programs show a mail that came twice once.
"""

from __future__ import annotations

import contextlib
import hashlib
import smtplib
import socket
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Annotated, Any, Literal

from msgspec import Meta

from regime.errors import OperatorError
from regime_service.alerts import DELIVERED, Alert, ChannelOptions, Delivery, Secrets, plain_text, subject
from regime_service.posting import in_words, trusting

_PORTS = {"starttls": 587, "tls": 465, "none": 25}


class Options(ChannelOptions, frozen=True, kw_only=True):
    """A mailbox."""

    host: Annotated[str, Meta(min_length=1)]
    """The mail server."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """Its port; 0 takes the usual one: 587 for starttls, 465 for tls, 25 for none."""
    tls: Literal["starttls", "tls", "none"] = "starttls"
    """How the connection is protected; `none` only to a server on this machine."""
    user: str = ""
    """User to log in as; empty: without logging in."""
    password_env: str = ""
    """Environment variable that holds the password."""
    password_file: str = ""
    """File that holds it."""
    sender: Annotated[str, Meta(min_length=3)]
    """Who it comes from: bots@example.org."""
    to: Annotated[list[str], Meta(min_length=1, max_length=50)]
    """Who gets it."""
    ca_file: str = ""
    """Authorities to trust instead of the system's (PEM)."""

    def __post_init__(self) -> None:
        if self.tls == "none" and self.host not in ("localhost", "127.0.0.1", "::1"):
            raise ValueError('`tls = "none"` is for a mail server on this machine only')
        if self.user and not (self.password_env or self.password_file):
            raise ValueError("with a `user` it needs `password_env` or `password_file`")
        for address in (self.sender, *self.to):
            try:
                Address(addr_spec=address)
            except (ValueError, IndexError, TypeError):
                raise ValueError(f"{address!r} is no mail address; write name@example.org") from None


class Email:
    OPTIONS = Options
    batch_max = 10

    def __init__(self, options: Options, secrets: Secrets) -> None:
        self._host, self._port = options.host, options.port or _PORTS[options.tls]
        self._tls, self._user = options.tls, options.user
        self._password = secrets.need("password") if options.user else ""
        self._sender, self._to = options.sender, options.to
        self._context = trusting(options.ca_file)
        if not self._password.isascii():
            raise OperatorError("the mail server's password holds signs that are not ASCII, which SMTP cannot take")

    def send(self, alerts: Sequence[Alert], *, within_s: float) -> Delivery:
        where = f"{self._host}:{self._port}"
        held: list[socket.socket] = []
        cut = threading.Event()

        def cut_off() -> None:
            # Each line of a mail server has a time-out of its own; together they may not take for ever.
            cut.set()
            for sock in held:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(within_s, cut_off)
        timer.daemon = True
        timer.start()
        try:
            self._deliver(self.message(alerts), within_s, held)
            return DELIVERED
        except smtplib.SMTPRecipientsRefused as error:
            codes = [code for code, _ in error.recipients.values()]
            return Delivery(_result(min(codes)), f"{where} refuses every recipient (status {min(codes)})")
        except smtplib.SMTPAuthenticationError as error:
            why = f"{where} does not take this user and password (status {error.smtp_code})"
            return Delivery(_result(error.smtp_code), why)
        except smtplib.SMTPResponseException as error:
            said = error.smtp_error.decode("utf-8", "replace") if isinstance(error.smtp_error, bytes) else ""
            reason = f"{where} answered {error.smtp_code}: {said}"
            return Delivery(_result(error.smtp_code), reason)
        except smtplib.SMTPServerDisconnected:
            return Delivery(
                "later", in_words(TimeoutError() if cut.is_set() else ConnectionResetError(), where, within_s)
            )
        except smtplib.SMTPNotSupportedError:
            return Delivery("never", f'{where} does not offer what is asked for (`tls = "{self._tls}"`, or logging in)')
        except (OSError, smtplib.SMTPException, ValueError) as error:
            return Delivery("later", in_words(TimeoutError() if cut.is_set() else error, where, within_s))
        finally:
            timer.cancel()

    def _deliver(self, message: EmailMessage, within_s: float, held: list[socket.socket]) -> None:
        name = socket.gethostname()
        server: smtplib.SMTP
        if self._tls == "tls":
            server = _TlsServer(held, self._host, self._port, name, timeout=within_s, context=self._context)
        else:
            server = _Server(held, self._host, self._port, name, timeout=within_s)
        try:
            if self._tls == "starttls":
                server.starttls(context=self._context)
            if self._user:
                server.login(self._user, self._password)
            server.send_message(message, self._sender, self._to)
        finally:
            # Not quit(): it waits for an answer that nobody needs.
            server.close()

    def message(self, alerts: Sequence[Alert]) -> EmailMessage:
        """Return the mail."""
        mail = EmailMessage()
        # A header is one line: what would end it was taken out where the words were made.
        mail["Subject"] = f"[regimegate] {subject(alerts)}"
        mail["From"] = self._sender
        mail["To"] = ", ".join(self._to)
        mail["Date"] = format_datetime(datetime.now(UTC))
        key = alerts[0].key if len(alerts) == 1 else _together([alert.key for alert in alerts])
        mail["Message-ID"] = f"<{key}@regimegate>"
        mail["Auto-Submitted"] = "auto-generated"
        mail["X-Regimegate-Keys"] = " ".join(alert.key for alert in alerts)
        mail.set_content(plain_text(alerts) + "\n", cte="quoted-printable")
        return mail


def _together(keys: list[str]) -> str:
    return hashlib.sha256(" ".join(keys).encode()).hexdigest()[:32]


def _result(code: int) -> Literal["later", "never"]:
    return "never" if 500 <= code < 600 else "later"


class _Holding:
    """Lets go of no socket before it was shown: a server that greets us too slowly can be cut off, too."""

    def __init__(self, held: list[socket.socket], *arguments: Any, **options: Any) -> None:
        self._held = held
        super().__init__(*arguments, **options)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        sock: socket.socket = super()._get_socket(host, port, timeout)  # type: ignore[misc]
        self._held.append(sock)
        return sock


class _Server(_Holding, smtplib.SMTP):
    pass


class _TlsServer(_Holding, smtplib.SMTP_SSL):
    pass


__plugin__ = Email
