"""Requests that are almost right: a seeded mutator of bodies, addresses and headers.

    Mutator(seed).mutated(asked) -> Asked

Most requests are hurt in one place only, for what is wrong everywhere is refused at the first door. A JSON body is
cut into its values once (`Values`); a mutation then replaces, repeats, renames, nests or drops one of them, so that
the rest of the body still reaches what stands behind the parser. A smaller share is hurt as bytes.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from target import CSV, JSON, NDJSON, Asked

NUMBERS: tuple[bytes, ...] = (
    b"0", b"-0", b"-0.0", b"1", b"-1", b"2", b"0.5", b"1.0", b"1e0", b"1E+2", b"1e-400", b"5e-324",
    b"2.2250738585072014e-308",
    b"1e308", b"1.7976931348623157e308", b"1.7976931348623159e308", b"-1.7976931348623157e308", b"1e309", b"1e999",
    b"-1e999", b"1e99999999999", b"NaN", b"-NaN", b"nan", b"Infinity", b"-Infinity", b"inf", b"9007199254740993",
    b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809", b"18446744073709551616", b"9" * 30,
    b"9" * 308,
    b"9" * 400, b"9" * 5000, b"0." + b"3" * 400, b"00", b"01", b"+1", b".5", b"1.", b"0x10", b"1_000", b"1,5", b"1e",
    b"--1",
    b"4102444800000", b"4102444800001", b"253402300800000", b"1762146000", b"1762146000000000", b"978307199999",
    b"1e12",
    b"1.8e12", b"1800000000000.5", b"0.1", b"1e-9", b"1e15", b"1000", b"1001",
)  # fmt: skip
STRINGS: tuple[bytes, ...] = (
    b'""', b'" "', b'"\\u0000"', b'"a\\u0000b"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\ud83d\\ude00"', b'"\\n"',
    b'"\\u001b[31m"',
    b'"\\u007f"', b'"\\u202eBTC"', b'"\\ufeff"', b'"\\ufffe"', b'"\xe2\x82\xbf/\xe2\x82\xae"', b'"\xf0\x9f\x92\xa5"',
    b'"\xff"', b'"\xc0\x80"',
    b'"\xed\xa0\x80"', b'"\xe2\x82"', b'"caf\xc3\xa9"', b'"cafe\xcc\x81"', b'"\t"', b'"a\nb"', b'"\\x41"', b'"\\u12"',
    b'"unclosed', b'"BTC/USDT"',
    b'"btc/usdt:usdt"', b'"BTC,ETH"', b'"../../etc/passwd"', b'"%00%2f"', b'"\' OR 1=1 --"', b'"<script>"',
    b'"{{7*7}}"', b'"%s%n"',
    b'"' + b"a" * 128 + b'"', b'"' + b"a" * 129 + b'"', b'"' + b"\xf0\x9f\x92\xa5" * 128 + b'"',
    b'"' + b"a" * 70_000 + b'"', b'"1"', b'"true"',
    b'"null"', b'"NaN"', b'"long"', b'"LONG"', b'"short"', b'"ACTIVE"', b'"HALTED"', b'"REDUCING"', b'"active"',
    b'"5m"', b'"5M"', b'"5 m"',
    b'"0m"', b'"1s"', b'"9999M"', b'"10000d"', b'"5\xd9\xa5m"', b'"m5"', b'"1h"', b'"observation"', b'"command"',
    b'"tick"', b'"m"',
)  # fmt: skip
OTHERS: tuple[bytes, ...] = (
    b"null", b"true", b"false", b"[]", b"{}", b"[[]]", b"[null]", b"{}{}", b"[,]", b"None", b"undefined", b"nul", b"",
    b" ", b'{"":0}',
    b'{"a":null}', b"[1,2,3]", b"//", b"/**/", b"\x00", b"\\", b'"',
)  # fmt: skip
FIELDS: tuple[bytes, ...] = (
    b"model", b"symbol", b"timeframe", b"ts_ms", b"features", b"probabilities", b"taken", b"candle", b"kind",
    b"trade_id", b"side",
    b"opened_ms", b"closed_ms", b"profit_ratio", b"equity", b"net_flow", b"state", b"until_ms", b"actor", b"reason",
    b"id", b"shadow",
    b"long", b"short", b"exit_long", b"leverage", b"size_ratio", b"signal_ts_ms", b"letter", b"key_id", b"action",
    b"calibrations",
    b"f1", b"", b"__class__", b"\\u0000", b"\\ud800", b"Model", b"model ", b"m\\u006fdel", b"a" * 129, b"features.f1",
    b"$ref",
)  # fmt: skip
SPLICES: tuple[bytes, ...] = (
    b"\x00", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b"NaN", b"1e999",
    b"[" * 500, b"[" * 100_000,
    b'{"a":' * 500, b'{"a":' * 30_000, b"]", b"}", b'"', b",", b":", b"\n", b"\r\n", b"\r", b" " * 5000, b"null",
    b"\xe2\x80\xa8", b"9" * 5000,
    b"\x1f\x8b\x08\x00", b"PAR1", b"\\", b"\\u", b"-", b"e9", b"0", b"1",
)  # fmt: skip
METHODS = (
    "GET",
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "HEAD",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "get",
    "P\u00d6ST",
    "",
)
PATHS = (
    "/", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/v1", "/v1/", "/v1/stream", "/v1/nothing",
    "//v1/thresholds", "/v1/thresholds/", "/v1/Thresholds", "/v1//explain", "/v1/../metrics", "/v1/%2e%2e/metrics",
    "/v1/thresholds%00", "/v1/%ff", "/v1/%ed%a0%80", "/v1/observations%0d%0aX:1", "/v1/overrides", "/v1/overrides/",
    "/v1/overrides/%00", "/v1/overrides/" + "x" * 5000, "/v1/overrides/a/b", "/v1/overrides/%F0%9F%92%A5",
    "/v1/models", "/v1/models//references/", "/v1/models/m/references", "/v1/models/a%2Fb/references/v%20",
    "/v1/models/%00/references/%00", "/v1/models/" + "m" * 200 + "/references/v", "/v1/dead-letters",
    "/v1/dead-letters/1/retry", "/v1/dead-letters/0/drop", "/v1/dead-letters/" + "9" * 40 + "/retry",
    "/v1/dead-letters/%D9%A1/retry", "/v1/dead-letters/-1/drop", "/favicon.ico", "", "*", "/%", "/%zz", "/\u00e9",
    "/static/../../x", "/v1/alerts", "/v1/alerts/retry", "/v1/alerts/drop", "/v1/alerts/1/retry",
)  # fmt: skip
QUERY_PARTS: tuple[bytes, ...] = (
    b"model=m", b"model=", b"model", b"=m", b"model=%", b"model=%zz", b"model=%00", b"model=%ff", b"model=%ED%A0%80",
    b"model=m&model=n",
    b"symbol=BTC/USDT:USDT", b"symbol=BTC%2FUSDT%3AUSDT", b"symbol=A,B", b"symbol=,", b"symbol=" + b"A," * 999,
    b"symbol=" + b"A," * 1001,
    b"symbol=%E2%82%BF", b"symbol=" + b"x" * 5000, b"timeframe=5m", b"timeframe=%35m", b"timeframe=5M",
    b"timeframe=5m+", b"timeframe=",
    b"limit=1", b"limit=0", b"limit=1000", b"limit=1001", b"limit=-1", b"limit=1.0", b"limit=1e3",
    b"limit=" + b"9" * 400, b"limit=%D9%A1",
    b"limit=+1", b"since_version=0", b"since_version=9007199254740992", b"since_version=9007199254740993",
    b"since_version=x",
    b"on_conflict=keep", b"on_conflict=refuse", b"on_conflict=KEEP", b"on_conflict=", b"on_conflct=keep",
    b"trained_until_ms=1",
    b"trained_until_ms=99999999999999999999", b"trained_until_ms=1800000000000", b"closed=true", b"closed=1", b"&&&",
    b";", b"a=1;b=2",
    b"a[]=1", b"#", b"\xff", b"\x00", b"%25", b"+", b"a=%u1234", b"&".join(b"p%d=" % i for i in range(70)),
)  # fmt: skip
HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"host", b"evil.example"), (b"host", b""), (b"host", b"127.0.0.1:8080"), (b"host", b"[::1]:8080"),
    (b"host", b"localhost:99999999"),
    (b"host", b"\xff"), (b"host", b"a b"), (b"origin", b"http://127.0.0.1:8080"),
    (b"origin", b"https://evil.example"), (b"origin", b"null"),
    (b"origin", b""), (b"origin", b"\xff"), (b"sec-fetch-site", b"cross-site"), (b"sec-fetch-mode", b"navigate"),
    (b"authorization", b"Bearer x"), (b"authorization", b"Bearer "), (b"authorization", b"Basic Og=="),
    (b"authorization", b"\xff\xfe"),
    (b"authorization", b""), (b"content-type", b"application/json; charset=latin-1"),
    (b"content-type", b"application/json;charset=UTF-8"),
    (b"content-type", b"application/json, text/csv"), (b"content-type", b";;;="), (b"content-type", b"\xff"),
    (b"content-type", b""),
    (b"content-encoding", b"gzip"), (b"content-encoding", b"identity"), (b"content-encoding", b"br, gzip"),
    (b"content-encoding", b"\xe9"),
    (b"content-length", b"0"), (b"content-length", b"-1"), (b"content-length", b"9" * 25),
    (b"content-length", b"1e3"), (b"content-length", b"+5"),
    (b"content-length", b"8388609"), (b"content-length", b"\xb2"), (b"transfer-encoding", b"chunked, gzip"),
    (b"expect", b"100-continue"),
    (b"if-none-match", b"*"), (b"if-none-match", b'W/"x", "y", *'), (b"if-none-match", b'"' * 999),
    (b"if-none-match", b"\xff"),
    (b"if-none-match", b""), (b"last-event-id", b"-1"), (b"last-event-id", b"\xff"), (b"last-event-id", b"9" * 99),
    (b"range", b"bytes=0-0"),
    (b"accept", b"text/event-stream"), (b"accept", b"\xff"), (b"accept-encoding", b"gzip;q=x"),
    (b"cookie", b"session=\xff; a"),
    (b"x-forwarded-for", b"::1\x00"), (b"upgrade", b"h2c"), (b"connection", b"upgrade"), (b"x" * 4000, b"y" * 4000),
    (b"", b""), (b"x", b"\r\nA: b"),
)  # fmt: skip
MEDIA_TYPES = (
    JSON, NDJSON, CSV, b"application/vnd.apache.parquet", b"text/plain", b"multipart/form-data; boundary=x",
    b"application/x-www-form-urlencoded", b"application/JSON", b"application/problem+json", b"application/*",
)  # fmt: skip

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9.eE+-]+|true|false|null|[\[\]{},:]')


class Value(NamedTuple):
    """Where a value stands in a body. `pair` is where its `"name":` begins; the value's own begin in an array."""

    pair: int
    begin: int
    end: int


def values(body: bytes) -> list[Value]:
    """Return where every value of a well-formed JSON text (or several, one a line) begins and ends; outer ones first.

    >>> [b'{"a":[1]}'[v.begin : v.end] for v in values(b'{"a":[1]}')]
    [b'{"a":[1]}', b'[1]', b'1']
    """
    found: list[Value] = []
    open_at: list[tuple[int, int, bool]] = []  # (place in `found`, begin, is it an object)
    tokens = list(_TOKEN.finditer(body))
    pair = -1
    for i, token in enumerate(tokens):
        text = token[0]
        if text in b",:":
            continue
        if text in (b"]", b"}"):
            at, _, _ = open_at.pop()
            found[at] = found[at]._replace(end=token.end())
            pair = -1
            continue
        if pair < 0 and open_at and open_at[-1][2] and i + 1 < len(tokens) and tokens[i + 1][0] == b":":
            pair = token.start()
            continue
        found.append(Value(token.start() if pair < 0 else pair, token.start(), token.end()))
        pair = -1
        if text in (b"[", b"{"):
            open_at.append((len(found) - 1, token.start(), text == b"{"))
    return found


class Mutator:
    """Seeded: the same seed makes the same requests of the same requests.

    Parameters
    ----------
    seed
        Of everything that is drawn.
    secrets
        Texts that are put into bodies, addresses and headers now and then; no error may repeat one.
    """

    def __init__(self, seed: int, *, secrets: Sequence[bytes] = ()) -> None:
        self.random = random.Random(seed)
        self.secrets = tuple(secrets)
        self._values: dict[bytes, list[Value]] = {}

    def mutated(self, asked: Asked) -> Asked:
        """Return `asked` hurt somewhere; now and then as it is, so that some get through."""
        draw = self.random.random()
        if draw < 0.1:
            return self._in_chunks(asked)
        if draw < 0.62 and asked.body:
            asked = self._with_body(asked, self.body(asked.body))
        elif draw < 0.74 and asked.body:
            asked = self._with_body(asked, self.as_bytes(asked.body))
        elif draw < 0.84:
            asked = asked._replace(query=self.query(asked.query))
        elif draw < 0.92:
            asked = asked._replace(headers=self.headers(asked.headers))
        else:
            asked = self.target(asked)
        if self.secrets and self.random.random() < 0.05:
            asked = self._with_secret(asked)
        return self._in_chunks(asked)

    # --- bodies ---

    def body(self, body: bytes) -> bytes:
        """Hurt one value of a JSON body, seldom two or three."""
        for _ in range(self.random.choice((1, 1, 1, 1, 1, 2, 3))):
            if body not in self._values:
                if len(self._values) > 256:
                    self._values.clear()
                self._values[body] = values(body)
            found = self._values[body]
            if not found:
                return self.as_bytes(body)
            body = self._hurt(body, self.random.choice(found), found)
            if self.random.random() < 0.5:
                break
            if not _balanced(body):
                break  # Its values can no longer be told apart.
        return body

    def _hurt(self, body: bytes, at: Value, found: Sequence[Value]) -> bytes:
        choice = self.random.choice
        pair, begin, end = at
        value, head, tail = body[begin:end], body[:begin], body[end:]
        match self.random.randrange(16):
            case 0 | 1 | 2:
                return head + choice(NUMBERS) + tail
            case 3 | 4:
                return head + choice(STRINGS) + tail
            case 5:
                return head + choice(OTHERS) + tail
            case 6:  # another type with the same text
                return head + (value[1:-1] if value[:1] == b'"' else b'"' + value.replace(b'"', b'\\"') + b'"') + tail
            case 7:
                return head + choice((b"[%s]", b'{"a":%s}', b"[%s,%s]", b"(%s)")).replace(b"%s", value) + tail
            case 8:
                depth = choice((10, 300, 1100, 5000, 100_000))
                return head + b"[" * depth + value + b"]" * choice((depth, depth - 1, 0)) + tail
            case 9:  # the same name twice
                extra = body[pair:begin] + choice((value, choice(NUMBERS), choice(STRINGS), b"null"))
                return body[:end] + b"," + extra + tail
            case 10:  # away with it, with or without its comma
                if self.random.random() < 0.8:
                    before = body[:pair].rstrip()
                    return before[:-1] + tail if before.endswith(b",") else before + tail.lstrip().removeprefix(b",")
                return body[:pair] + tail
            case 11:  # another name
                return (
                    body[:pair] + b'"' + choice(FIELDS) + b'":' + body[begin:] if pair < begin else self.as_bytes(body)
                )
            case 12:  # one more name
                extra = b'"' + choice(FIELDS) + b'":' + choice(choice((NUMBERS, STRINGS, OTHERS)))
                return body[:end] + b"," + extra + tail if pair < begin else body[:end] + b"," + value + tail
            case 13:  # two values change places
                other = choice(found)
                first, second = sorted((at, other), key=lambda v: v.begin)
                if first.end > second.begin:
                    return head + body[other.begin : other.end] + tail
                return (
                    body[: first.begin] + body[second.begin : second.end] + body[first.end : second.begin]
                    + body[first.begin : first.end] + body[second.end :]
                )  # fmt: skip
            case 14:  # units
                if value[:1] in b"-0123456789":
                    return (
                        head
                        + choice((value + b"000", value[:-3] or b"0", value + b".0", value + b"e3", b"-" + value))
                        + tail
                    )
                return head + value[:-1] + choice((b"\\u0000", b"\\ud800", b"x" * 130, b" ", b"")) + value[-1:] + tail
            case _:  # many
                return head + b",".join([value] * choice((2, 30, 300))) + tail

    def as_bytes(self, body: bytes) -> bytes:
        """Hurt a body as bytes: flip, cut, splice, repeat, another coding."""
        rnd = self.random
        at = rnd.randrange(len(body) + 1)
        to = min(len(body), at + rnd.randrange(1, 40))
        match rnd.randrange(9):
            case 0 | 1:
                if at < len(body):
                    return body[:at] + bytes((body[at] ^ (1 << rnd.randrange(8)),)) + body[at + 1 :]
                return body[:-1]
            case 2:
                return body[:at]
            case 3 | 4:
                return body[:at] + rnd.choice(SPLICES) + body[at if rnd.random() < 0.5 else to :]
            case 5:
                return body[:to] + body[at:to] * rnd.choice((1, 2, 50)) + body[to:]
            case 6:
                return body[:at] + rnd.randbytes(rnd.randrange(1, 9)) + body[to:]
            case 7:
                return rnd.choice(
                    (b"\xef\xbb\xbf" + body, b"\n\r\t " + body, body + b"\x00", body * 2, body + b"\n" + body)
                )
            case _:
                return body.decode("utf-8", "replace").encode(
                    rnd.choice(("utf-16", "utf-16-le", "utf-32", "utf-7")), "replace"
                )

    # --- addresses, headers, chunks ---

    def query(self, query: bytes) -> bytes:
        rnd = self.random
        parts = query.split(b"&") if query else []
        for _ in range(rnd.choice((1, 1, 2))):
            at = rnd.randrange(len(parts) + 1)
            match rnd.randrange(5):
                case 0 if parts:
                    del parts[at - 1]
                case 1 if parts:
                    parts[at - 1] = rnd.choice(QUERY_PARTS)
                case 2 if parts:
                    return self.as_bytes(query)
                case 3 if parts:
                    return b"".join(b"%%%02x" % byte if rnd.random() < 0.3 else bytes((byte,)) for byte in query)
                case _:
                    parts.insert(at, rnd.choice(QUERY_PARTS))
        return b"&".join(parts)

    def headers(self, headers: Sequence[tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
        rnd = self.random
        found = list(headers)
        at = rnd.randrange(len(found))
        match rnd.randrange(6):
            case 0:
                del found[at]
            case 1:
                found[at] = (found[at][0], self.as_bytes(found[at][1]))
            case 2:
                found.append(found[at])
            case 3:
                found = [(name, rnd.choice(MEDIA_TYPES) if name == b"content-type" else value) for name, value in found]
            case _:
                found.insert(at, rnd.choice(HEADERS))
        return tuple(found)

    def target(self, asked: Asked) -> Asked:
        rnd = self.random
        match rnd.randrange(3):
            case 0:
                return asked._replace(method=rnd.choice(METHODS))
            case 1:
                return asked._replace(path=rnd.choice(PATHS))
            case _:
                at = rnd.randrange(len(asked.path) + 1)
                piece = rnd.choice(("/", "%2f", "%00", "%", "..", "\u00e9", "%ff", "%f0%9f%92%a5", "?", "x" * 300))
                return asked._replace(path=asked.path[:at] + piece + asked.path[at + rnd.randrange(3) :])

    def _with_body(self, asked: Asked, body: bytes) -> Asked:
        # A server would have held it against its length; what is left is one that fits.
        kept = tuple((n, str(len(body)).encode() if n == b"content-length" else v) for n, v in asked.headers)
        return asked._replace(chunks=(body,), headers=kept)

    def _in_chunks(self, asked: Asked) -> Asked:
        rnd, body = self.random, asked.body
        if rnd.random() < 0.85:
            return asked._replace(chunks=(body,))
        cuts = sorted(rnd.randrange(len(body) + 1) for _ in range(rnd.choice((1, 1, 2, 3, 9))))
        chunks = tuple(body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True))
        return asked._replace(chunks=chunks, hangs_up=rnd.random() < 0.2)

    def _with_secret(self, asked: Asked) -> Asked:
        rnd = self.random
        secret = rnd.choice(self.secrets)
        if rnd.random() < 0.3:
            secret = secret[: rnd.randrange(20, len(secret) + 1)] + rnd.choice((b"", b"\x00", b"\\u0000", b"%00"))
        match rnd.randrange(5):
            case 0 | 1 if asked.body:
                found = values(asked.body) if _balanced(asked.body) else []
                if not found:
                    return self._with_body(asked, asked.body[:9] + secret + asked.body[9:])
                at = rnd.choice(found)
                name = rnd.random() < 0.4 and at.pair < at.begin
                new = b'"' + secret + b'":' + asked.body[at.begin : at.end] if name else b'"' + secret + b'"'
                return self._with_body(asked, asked.body[: at.pair if name else at.begin] + new + asked.body[at.end :])
            case 2:
                name = rnd.choice(
                    (
                        b"model",
                        b"limit",
                        b"symbol",
                        b"timeframe",
                        b"on_conflict",
                        b"closed",
                        b"trained_until_ms",
                        secret,
                    )
                )
                value = secret if rnd.random() < 0.5 else b"%72%67k" + secret[3:]
                return asked._replace(query=asked.query + b"&" + name + b"=" + value)
            case 3:
                path = rnd.choice(("/v1/overrides/", "/v1/", "/v1/models/", "/", "/v1/dead-letters/"))
                return asked._replace(path=path + secret.decode("latin-1"))
            case _:
                name = rnd.choice(
                    (
                        b"host",
                        b"origin",
                        b"content-type",
                        b"content-encoding",
                        b"authorization",
                        b"x",
                        b"content-length",
                    )
                )
                return asked._replace(headers=(*(h for h in asked.headers if h[0] != name), (name, b"a" + secret)))


def _balanced(body: bytes) -> bool:
    """Whether the brackets of a body come in pairs, and are not too many."""
    opened = [0, 0]
    if len(body) > 20_000:
        return False
    kinds = {b"{": (0, 1), b"}": (0, -1), b"[": (1, 1), b"]": (1, -1)}
    for token in _TOKEN.findall(body):
        if token in kinds:
            which, by = kinds[token]
            opened[which] += by
            if opened[which] < 0:
                return False
    return opened == [0, 0]


__all__ = ["Mutator", "Value", "values"]
