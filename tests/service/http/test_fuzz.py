"""Never a 500, whatever the bytes, and nothing that only looks like an answer: every one is readable and documented.

A 503 fails here too: the service is ready throughout, so it could only come from the gate's last resort.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

EXAMPLES = int(os.environ.get("REGIME_FUZZ_EXAMPLES", "600"))
"""Enough to fail on a door left open; many more are worth their time once in a while."""

JSON, NDJSON = b"application/json", b"application/x-ndjson"
RIGHT = [
    *(("POST", f"/v1/{path}", media) for path in ("observations", "trades") for media in (JSON, NDJSON)),
    *(("POST", f"/v1/{path}", JSON) for path in ("observations", "trades", "equity", "candles", "overrides")),
    *(("PUT", "/v1/models/m/references/v1", media) for media in (b"text/csv", NDJSON, b"application/x-parquet")),
    *(("GET", f"/v1/{path}", None) for path in ("thresholds", "decisions", "explain", "stream")),
    ("DELETE", "/v1/overrides/x", None),
]
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"]
PATHS = [
    *sorted({path for _, path, _ in RIGHT}), "/", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/v1",
    "/v1/nothing",
]  # fmt: skip
TYPES = [
    JSON, NDJSON, b"text/csv", b"application/vnd.apache.parquet", b"application/json;",
    b"application/json; charset=utf-8", b"text/plain", b";;;=", b"\xff\xfe",
]  # fmt: skip
PIECES = [
    b"\x00", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0",
    b"9" * 400, b"9" * 5000, b"[" * 2000, b'{"a":' * 2000, b"null", b"true", b"[]", b"{}", b'""', b",", b'"', b"}",
    b"]", b"\n", b"\xef\xbb\xbf", b"1.5", b"-1", b'"5m"', b"1762146000000000",
]  # fmt: skip
QUERIES = [
    b"", b"model=m&symbol=BTC/USDT:USDT&timeframe=5m", b"model=m&symbol=A,B&timeframe=5m", b"on_conflict=keep", b"%",
    b"model=%ff", b"model=%ED%A0%80&symbol=%00&timeframe=5m", b"limit=99999999999999999999", b"since_version=-1",
    b"a" * 99, b"model=m&symbol=BTC/USDT:USDT&timeframe=5m&limit=1000&since_version=9007199254740992",
    b"symbol=&timeframe=", b"trained_until_ms=1", b"trained_until_ms=99999999999999999999", b"symbol=A&timeframe=5m",
    b"&&&=&=",
]  # fmt: skip
HEADERS = [
    (b"if-none-match", b'W/"x", *'), (b"if-none-match", b"*"), (b"if-none-match", b'"' * 50), (b"x", b"\xff"),
    (b"last-event-id", b"x"), (b"last-event-id", b"\xff" * 50),
    (b"content-encoding", b"gzip"), (b"content-length", b"0"), (b"sec-fetch-site", b"none"),
    (b"origin", b"http://localhost:8080"),
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, valid: list[bytes]) -> bytes:
    """A valid body with pieces cut out, doubled, or replaced by something nasty; sometimes no body at all."""
    body = draw(st.sampled_from(valid))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(body)))
        to = draw(st.integers(at, min(len(body), at + 20)))
        body = body[:at] + draw(st.sampled_from(PIECES) | st.binary(max_size=8) | st.just(body[at:to] * 2)) + body[to:]
    return draw(st.just(body) | st.binary(max_size=64))


def test_no_request_ends_in_a_500(make_service: Callable[..., Any]) -> None:
    service = make_service()
    service.warm()
    service.post("/v1/overrides", {"model": "m", "state": "ACTIVE", "actor": "a", "reason": "r", "id": "x"})
    override = {"model": "m", "state": "REDUCING", "actor": "a", "reason": "r", "symbol": "A", "side": "long"}
    valid = [
        json.dumps(body).encode()
        for body in (
            service.observation(-3), [service.observation(-2), service.observation(-1)], service.trade(),
            [service.trade("t2")], {"model": "m", "ts_ms": 1, "equity": 1.0}, override,
            {"symbol": "A", "timeframe": "5m", "ts_ms": 1, "open": 1, "high": 1, "low": 1, "close": 1, "volume": 1},
        )
    ]  # fmt: skip
    valid += [valid[0] + b"\n" + valid[0], b"f1,f2\n1,2\n3,4\n", b""]
    seen: set[int] = set()

    paths = st.sampled_from(PATHS) | st.text(max_size=8).map(lambda text: "/v1/overrides/" + text)
    wrong = st.tuples(st.sampled_from(METHODS), paths, st.sampled_from(TYPES) | st.none())

    @settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
    @given(
        asked=st.integers(0, 5).flatmap(lambda n: st.sampled_from(RIGHT) if n else wrong),
        query=st.sampled_from(QUERIES) | st.just(b"") | st.binary(max_size=20),
        extra=st.lists(st.sampled_from(HEADERS), max_size=2),
        body=mutated(valid),
        cut=st.integers(0, 200),
    )
    def knock(asked: tuple[str, str, bytes | None], query: bytes, extra: Any, body: bytes, cut: int) -> None:
        method, path, media = asked
        headers = [(b"host", b"localhost:8080"), *extra, *([(b"content-type", media)] if media is not None else [])]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
            "raw_path": b"", "query_string": query, "root_path": "", "scheme": "http", "headers": headers,
        }  # fmt: skip
        messages = [
            {"type": "http.request", "body": body[:cut], "more_body": True},
            {"type": "http.request", "body": body[cut:], "more_body": False},
        ]
        status, answered, content = service.raw(scope, messages)
        seen.add(status)
        assert status in {200, 304, 400, 403, 404, 405, 409, 413, 415, 422}, (status, content)
        if answered.get("content-type", "").endswith("json"):
            answer = json.loads(content.decode("utf-8"), parse_constant=lambda name: 1 / 0)
            if status >= 400:
                assert set(answer) == {"type", "title", "status", "detail", "errors"}
                assert answer["status"] == status

    knock()
    assert {200, 400, 422} <= seen, "the requests are so broken that they prove nothing"
