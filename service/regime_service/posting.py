"""One HTTP POST to a server we do not trust to be quick, honest or there: a deadline for all of it, and plain words.

Python's own client has a time-out for each read, and a server that sends a byte now and then outlives it for ever.
Here a timer cuts the connection when the time for the whole exchange is over.

Redirects are not followed: what was meant for one address is not shown to another. Errors name the host and nothing
else of the address, which may hold a secret.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from regime.errors import OperatorError

ANSWER_BYTES_MAX = 4096
"""What is read of an answer: enough for the sentence in which a server says what it minds."""


class Answered(NamedTuple):
    """What the server said."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    text: str


class NotPosted(Exception):
    """No answer came; the message says why in a sentence, without the address."""


class Target(NamedTuple):
    """Where to; `shown` is what may be told of it."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def shown(self) -> str:
        """Return the host and the port, which no secret stands in."""
        return f"{self.host}:{self.port}"


def target(url: str) -> Target:
    """Return the parts of a URL. Raises `OperatorError`, without the URL, for one that cannot be used.

    >>> target("https://hooks.example.org/T0/secret").shown
    'hooks.example.org:443'
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise OperatorError("the address of the receiver is no URL; write https://HOST/PATH")
    if parts.username or parts.password or any(c <= " " or c > "~" for c in parts.path + parts.query):
        raise OperatorError("the address of the receiver holds a user, a space or a sign that is not ASCII")
    secure = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(secure, parts.hostname, port or (443 if secure else 80), path)


def trusting(ca_file: str) -> ssl.SSLContext:
    """Return a TLS context that checks certificates, by the system's authorities or those in `ca_file`."""
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise OperatorError(f"the certificates in {ca_file} cannot be read: {error.strerror or error}") from None


def post(
    to: Target, body: bytes, headers: Mapping[str, str], *, within_s: float, context: ssl.SSLContext | None = None
) -> Answered:
    """Send `body` and return the answer, whatever its status. Raises `NotPosted` where none came in time.

    Trap: looking up a name is the system's part and has time-outs of its own.
    """
    try:
        sock = socket.create_connection((to.host, to.port), timeout=within_s)
    except OSError as error:
        raise NotPosted(in_words(error, to.shown, within_s)) from None
    cut = threading.Event()

    def cut_off() -> None:
        cut.set()
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(within_s, cut_off)
    timer.daemon = True
    timer.start()
    connection = http.client.HTTPConnection(to.host, to.port)
    try:
        if to.secure:
            # The plain socket is closed with the wrapped one; cutting works on either, they share one connection.
            wrapped = (context or ssl.create_default_context()).wrap_socket(
                sock, server_hostname=to.host, do_handshake_on_connect=False
            )
            sock = wrapped
            wrapped.do_handshake()
        connection.sock = sock
        connection.request("POST", to.path, body, dict(headers))
        response = connection.getresponse()
        text = response.read(ANSWER_BYTES_MAX).decode("utf-8", "replace")
        if cut.is_set():  # Python's client takes the end of the connection for the end of the headers.
            raise TimeoutError
        return Answered(response.status, {k.lower(): v for k, v in response.getheaders()}, text)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotPosted(in_words(TimeoutError() if cut.is_set() else error, to.shown, within_s)) from None
    finally:
        timer.cancel()
        connection.close()
        sock.close()


def in_words(error: Exception, where: str, within_s: float) -> str:
    """Say what went wrong on the way to `where`."""
    match error:
        case TimeoutError():
            return f"{where} did not answer within {within_s:g} s"
        case ssl.SSLCertVerificationError():
            return f"the TLS certificate of {where} is not trusted: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS with {where} failed: {error.reason or 'no reason was given'}"
        case socket.gaierror():
            return f"the name {where.rpartition(':')[0]} is not known"
        case ConnectionRefusedError():
            return f"nobody listens at {where}"
        case ConnectionError() | http.client.RemoteDisconnected():
            return f"{where} cut the connection"
        case OSError():
            return f"{where} cannot be reached: {error.strerror or type(error).__name__}"
        case _:
            return f"what {where} answered is not HTTP"


__all__ = ["ANSWER_BYTES_MAX", "Answered", "NotPosted", "Target", "in_words", "post", "target", "trusting"]
