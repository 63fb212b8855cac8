"""Receivers of alerts for the tests: a web server and a mail server that behave as they are told to.

Moods: `ok`; `refuse` (400, or 550 to every recipient); `busy` (429 with Retry-After: 7, or 450); `broken` (500, or 451
after the text); `silent` (takes everything and says nothing); `drip` (a byte now and then, for ever); `cut` (resets the
connection); `garbage` (an answer in no protocol).
"""

from __future__ import annotations

import base64
import datetime
import http.server
import ipaddress
import json
import socket
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

MOODS = ("ok", "refuse", "busy", "broken", "silent", "drip", "cut", "garbage")


class Request(NamedTuple):
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Senders go away in the middle of things: that is what these tests do."""


class Receiver:
    """Listens on a free port of loopback until `close`. `tls` wraps every connection."""

    handler: type[socketserver.BaseRequestHandler]

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.mood = "ok"
        self.requests: list[Request] = []
        self.echo = False
        """Refusals repeat the path they were asked for, as careless servers do."""
        self._server = _Server(("127.0.0.1", 0), self.handler)
        self._server.receiver = self  # type: ignore[attr-defined]
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def drip(connection: socket.socket, begin: bytes) -> None:
    """Send the beginning of an answer and then a byte now and then, until nobody listens any more."""
    for byte in begin + b"x" * 1000:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


class _Http(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        mine: Receiver = self.server.receiver  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        mine.requests.append(Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        self.close_connection = True
        match mine.mood:
            case "ok":
                self._answer(200, b'{"ok": true}')
            case "refuse":
                self._answer(400, f"no such thing: {self.path if mine.echo else ''}".encode())
            case "busy":
                self._answer(429, b"slow down", {"Retry-After": "7"})
            case "broken":
                self._answer(500, b"oops")
            case "moved":
                self._answer(302, b"", {"Location": "http://127.0.0.1:9/elsewhere"})
            case "silent":
                self.connection.settimeout(10.0)
                self.connection.recv(1)
            case "drip":
                drip(self.connection, b"HTTP/1.1 200 OK\r\nX-Long: ")
            case "cut":
                reset(self.connection)
            case "garbage":
                self.wfile.write(b"\x00\x01 no HTTP at all\r\n\r\n")

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class HttpReceiver(Receiver):
    """A web server."""

    handler = _Http


class _Mail(socketserver.StreamRequestHandler):
    """As much of SMTP as a sender needs: EHLO, STARTTLS, AUTH PLAIN, MAIL, RCPT, DATA."""

    def handle(self) -> None:
        try:
            self._converse(self.server.receiver)  # type: ignore[attr-defined]
        finally:
            # Under STARTTLS there are two of them.
            self.rfile.close()
            self.connection.close()

    def _converse(self, mine: MailReceiver) -> None:
        mood = mine.mood
        if mood == "silent":
            self.connection.settimeout(10.0)
            self.connection.recv(1)
            return
        if mood == "drip":
            drip(self.connection, b"220-")
            return
        if mood == "cut":
            reset(self.connection)
            return
        if mood == "garbage":
            self.wfile.write(b"\x00\x01 no SMTP at all\r\n")
            return
        self._say("220 ready")
        secure = isinstance(self.connection, ssl.SSLSocket)
        while line := self.rfile.readline().decode("latin-1").rstrip("\r\n"):
            word = line.split(" ")[0].upper()
            match word:
                case "EHLO":
                    offers = ["AUTH PLAIN", "8BITMIME"] if secure or mine.starttls is None else ["STARTTLS"]
                    self._say(*[f"250-{offer}" for offer in ("hello", *offers[:-1])], f"250 {offers[-1]}")
                case "STARTTLS":
                    self._say("220 go ahead")
                    assert mine.starttls is not None
                    self.connection = mine.starttls.wrap_socket(self.connection, server_side=True)
                    self.rfile = self.connection.makefile("rb")
                    secure = True
                case "AUTH":
                    given = base64.b64decode(line.split(" ")[2]).decode().split("\0")[1:]
                    mine.logins.append((given[0], given[1]))
                    self._say("235 welcome" if given == ["bot", mine.password] else "535 who are you?")
                case "RCPT":
                    self._say({"refuse": "550 nobody here", "busy": "450 later"}.get(mood, "250 ok"))
                case "DATA":
                    self._say("354 go on")
                    text = b""
                    while not text.endswith(b"\r\n.\r\n"):
                        text += self.rfile.readline()
                    mine.requests.append(Request("", {}, text[:-5]))
                    self._say("451 try again" if mood == "broken" else "250 taken")
                case "QUIT":
                    self._say("221 bye")
                    return
                case _:
                    self._say("250 ok")

    def _say(self, *lines: str) -> None:
        self.connection.sendall("".join(f"{line}\r\n" for line in lines).encode())


class MailReceiver(Receiver):
    """A mail server; with `starttls` it offers nothing but that until the connection is protected."""

    handler = _Mail

    def __init__(self, *, tls: ssl.SSLContext | None = None, starttls: ssl.SSLContext | None = None) -> None:
        self.starttls = starttls
        self.password = "hunter2-hunter2"
        self.logins: list[tuple[str, str]] = []
        super().__init__(tls)


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Return a certificate for loopback that nobody has signed but itself, and the server's side of it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    file, secret = folder / "certificate.pem", folder / "key.pem"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, secret)
    return file, context
