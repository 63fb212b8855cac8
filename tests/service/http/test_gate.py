"""Who is let in: hosts, origins, sizes, and what happens when something breaks behind the gate."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from regime.errors import Unavailable
from regime_service.http import docs
from regime_service.http import gate as gate_file
from regime_service.http.exchange import Response
from regime_service.http.gate import Gate, Site, read_host, same_site
from regime_service.http.routes import Routes
from regime_service.ports import Health, Uncounted


def scope(method: str = "GET", path: str = "/v1/thresholds", **headers: str) -> dict[str, Any]:
    pairs = {"host": "localhost:8080", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
        "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http",
        "headers": [(k.encode(), v.encode("latin-1")) for k, v in pairs.items()],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8080),
    }  # fmt: skip


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]", "[::1]:8080"])
def test_own_host_names_are_answered_whatever_case_and_port(service: Any, host: str) -> None:
    assert service.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example:8080", "127.0.0.2", "", "a b", "[::2]", "localhost:x", "user@localhost"],
)
def test_other_host_names_are_refused(service: Any, host: str) -> None:
    response = service.get("/healthz", headers={"Host": host})
    assert response.status_code == 403
    assert response.json()["type"] == "urn:regimegate:problem:refused"


def test_a_request_without_host_or_with_two_is_refused(service: Any) -> None:
    none = {**scope(), "headers": []}
    two = {**scope(), "headers": [(b"host", b"localhost"), (b"host", b"evil.example")]}
    assert [service.raw(s, [])[0] for s in (none, two)] == [403, 403]


def test_a_star_answers_to_any_name_but_not_to_none(make_service: Callable[..., Any]) -> None:
    service = make_service(ports={"hosts": frozenset({"*"})})
    assert service.get("/healthz", headers={"Host": "anything.example"}).status_code == 200
    assert service.raw({**scope(), "headers": []}, [])[0] == 403


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://localhost:8080", "localhost:8080", True),
        ("HTTP://LOCALHOST:8080", "localhost:8080", True),
        ("https://regime.example", "regime.example", True),
        ("https://regime.example", "regime.example:443", True),
        ("http://[::1]:8080", "[::1]:8080", True),
        ("http://localhost:3000", "localhost:8080", False),
        ("http://localhost", "localhost:8080", False),
        ("http://evil.example", "localhost:8080", False),
        ("http://localhost:8080.evil.example", "localhost:8080", False),
        ("chrome-extension://abc", "localhost:8080", False),
        ("null", "localhost:8080", False),
        ("", "localhost:8080", False),
    ],
)
def test_an_origin_is_ours_only_if_name_and_port_agree(origin: str, host: str, same: bool) -> None:
    site = read_host(host)
    assert isinstance(site, Site)
    assert same_site(origin, site) is same


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
)
def test_pages_of_other_sites_are_refused(service: Any, method: str, headers: dict[str, str]) -> None:
    path = "/v1/thresholds" if method == "GET" else "/v1/observations"
    assert service.request(method, path, headers=headers).status_code == 403


def test_our_own_pages_and_bots_are_let_in(service: Any) -> None:
    service.warm()
    for headers in ({}, {"Origin": "http://localhost:8080", "Sec-Fetch-Site": "same-origin"}):
        assert service.thresholds(headers=headers).status_code == 200


def test_a_person_may_follow_a_link_to_a_page_but_not_into_the_api(service: Any) -> None:
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert service.get("/", headers=followed).status_code == 200
    assert service.thresholds(headers=followed).status_code == 403
    assert service.get("/", headers={**followed, "Sec-Fetch-Dest": "iframe"}).status_code == 403


def test_a_body_over_the_limit_is_refused_by_its_announcement(make_service: Callable[..., Any]) -> None:
    service = make_service(ports={"body_bytes_max": 100})
    status, headers, body = service.raw(scope("POST", "/v1/equity", content_length="101"), [])
    assert (status, headers["connection"], json.loads(body)["status"]) == (413, "close", 413)
    assert service.raw(scope("POST", "/v1/equity", content_length="9" * 5000), [])[0] == 413


def test_a_body_without_announced_length_is_counted_as_it_comes(make_service: Callable[..., Any]) -> None:
    service = make_service(ports={"body_bytes_max": 100})
    chunks = [{"type": "http.request", "body": b"x" * 40, "more_body": True} for _ in range(4)]
    status, headers, _ = service.raw(scope("POST", "/v1/equity", content_type="application/json"), chunks)
    assert (status, headers["connection"]) == (413, "close")


def test_large_bodies_share_a_bounded_memory_and_a_candle_always_passes(
    make_service: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_file, "BODIES_BYTES_MAX", 1000)
    monkeypatch.setattr(gate_file, "SMALL_BYTES", 800)
    service = make_service()
    large = b"[" + b" " * 1200 + b"]"

    async def both() -> tuple[Any, Any]:
        async def slow_body() -> Any:
            yield b"[" + b" " * 899
            while not release.is_set():
                await asyncio.sleep(0)
            yield b"]"

        release = asyncio.Event()
        json_type = {"Content-Type": "application/json"}
        first = asyncio.create_task(service._ask("POST", "/v1/equity", content=slow_body(), headers=json_type))
        await asyncio.sleep(0.05)
        refused = await service._ask("POST", "/v1/equity", content=large[:850] + b"]", headers=json_type)
        small = await service._ask("POST", "/v1/equity", content=b"[]", headers=json_type)
        release.set()
        return [refused.status_code, small.status_code, (await first).status_code], refused

    statuses, refused = service._runner.run(both())
    assert statuses == [503, 200, 200]
    assert refused.headers["Retry-After"] == "1"
    assert "smaller batches" in refused.json()["detail"]
    again = service.request("POST", "/v1/equity", content=b"[" + b" " * 900 + b"]",
                            headers={"Content-Type": "application/json"})  # fmt: skip
    assert again.status_code == 200, "what was held is let go with the request"


def test_a_reference_has_a_limit_of_its_own(make_service: Callable[..., Any]) -> None:
    service = make_service(ports={"body_bytes_max": 10, "reference_bytes_max": 50})
    path, csv = "/v1/models/m/references/v1", {"Content-Type": "text/csv"}
    assert service.request("PUT", path, content=b"f1\n1\n2\n3\n4\n5\n6", headers=csv).status_code == 200
    assert service.request("PUT", path, content=b"f1\n" + b"1\n" * 50, headers=csv).status_code == 413


@pytest.mark.parametrize("length", ["-1", "1e3", "x", "１"])
def test_a_length_that_is_no_number_is_malformed(service: Any, length: str) -> None:
    bad = {**scope("POST", "/v1/equity")}
    bad["headers"] = [*bad["headers"], (b"content-length", length.encode())]
    assert service.raw(bad, [])[0] == 400


def test_when_it_cannot_store_the_service_says_why_and_answers_no_get_either(service: Any) -> None:
    service.warm()
    service.health = Health(ready=False, reason="The disk is full", queue_depth=0, queue_max=10)
    for response in (service.thresholds(), service.warm(), service.get("/readyz")):
        assert response.status_code == 503
        assert "The disk is full" in response.json()["detail"]
        assert int(response.headers["Retry-After"]) >= 1
    assert service.get("/healthz").json() == {"status": "alive"}
    assert service.get("/metrics").status_code == 200


def test_answers_of_the_api_are_not_to_be_kept_and_none_is_to_be_guessed_at(service: Any) -> None:
    for response in (service.thresholds(), service.warm(), service.get("/v1/nothing")):
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/docs", "/healthz", "/metrics", "/openapi.json", "/nothing"])
def test_what_a_browser_may_show_cannot_be_framed_sniffed_kept_or_followed(service: Any, path: str) -> None:
    headers = service.get(path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert all(len(headers.get_list(name)) == 1 for name in headers), "a header stands twice"


def test_a_page_may_run_our_files_only_unless_it_brings_a_policy_of_its_own() -> None:
    def answer(*own: tuple[bytes, bytes]) -> dict[bytes, bytes]:
        html = (b"content-type", b"text/html; charset=utf-8")
        sent = asked(lambda _request: Response(b"", 200, (html, *own)))
        return dict(sent[0]["headers"])

    policy = answer()[b"content-security-policy"]
    assert policy == gate_file.PAGE_POLICY.encode()
    assert b"script-src 'self'" in policy
    mine = answer((b"content-security-policy", b"default-src 'none'"), (b"cache-control", b"max-age=60"))
    assert (mine[b"content-security-policy"], mine[b"cache-control"]) == (b"default-src 'none'", b"max-age=60")


def test_the_docs_bring_no_script_and_load_nothing_from_anywhere(service: Any) -> None:
    response = service.get("/docs")
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    text = response.text
    assert "<script" not in text
    assert "http:" not in text.replace("https:", "http:")
    style = text.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in response.headers["Content-Security-Policy"]
    for path, item in service.document["paths"].items():
        for method, operation in item.items():
            assert f"{method.upper()} {path}" in text
            assert html.escape(operation["summary"]) in text
    for name in service.document["components"]["schemas"]:
        assert f'id="{name}"' in text


def test_the_docs_escape_what_the_document_says() -> None:
    nasty = "<script>alert(1)</script>\"'&"
    schema = {"type": "string", "enum": [nasty], "description": nasty}
    document = {
        "info": {"title": nasty, "version": nasty, "summary": nasty},
        "paths": {f"/{nasty}": {"get": {
            "summary": nasty, "description": nasty, "security": [{}, {"key": [nasty]}],
            "parameters": [{"name": nasty, "in": "query", "required": True, "schema": schema, "description": nasty}],
            "requestBody": {"content": {nasty: {"schema": {"type": nasty, "default": nasty}}}},
            "responses": {"200": {"description": nasty, "content": {nasty: {"schema": {"$ref": "#/" + nasty}}}}},
        }}},
        "components": {"schemas": {nasty: {"properties": {nasty: schema}, "description": nasty}}},
    }  # fmt: skip
    assert "<script" not in docs.page(document)


def test_what_nobody_foresaw_is_a_503_and_the_log_does_not_repeat_what_was_sent(
    make_service: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    said = "".join(("sec", "ret"))  # The log shows lines of source; it is not to show what they work on.

    def fail(*_: Any) -> Any:
        raise RuntimeError(said)

    service = make_service(ports={"explain": fail})
    with caplog.at_level(logging.ERROR):
        response = service.get("/v1/explain", params={"model": "m", "symbol": "s", "timeframe": "5m"})
    assert response.status_code == 503
    incident = response.json()["detail"].partition("incident ")[2][:8]
    assert incident in caplog.text
    assert "RuntimeError" in caplog.text
    assert said not in caplog.text + response.text


def test_an_error_of_ours_that_nobody_caught_further_inside_says_what_it_is(make_service: Callable[..., Any]) -> None:
    def fail() -> str | None:
        raise Unavailable("the service is starting", retry_after_s=9)

    response = make_service(ports={"fault": fail}).thresholds()
    assert (response.status_code, response.headers["Retry-After"]) == (503, "9")
    assert response.json()["detail"] == "the service is starting"


def asked(handler: Any) -> list[Any]:
    """What a gate sends that has this handler at /."""
    sent: list[Any] = []
    routes = Routes(title="", version="", summary="")
    routes.add("GET", "/", handler)
    gate = Gate(routes, hosts=frozenset({"*"}), fault=lambda: None, body_bytes_max=1, reference_bytes_max=1)

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    try:
        asyncio.run(gate(scope(path="/"), receive, send))
    except RuntimeError as error:
        sent.append(error)
    return sent


def test_an_answer_that_has_begun_is_not_answered_a_second_time() -> None:
    class Half:
        async def run(self, send: Any, headers: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            raise RuntimeError("the rest is missing")

    async def handler(_request: Any) -> Any:
        return Half()

    start, error = asked(handler)
    assert start["type"] == "http.response.start"
    assert str(error) == "the rest is missing"


def test_start_and_stop_of_the_server_go_through(service: Any) -> None:
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    assert service.raw({"type": "lifespan", "asgi": {"version": "3.0"}}, messages)[0] == 0


def test_a_failing_health_check_is_a_503_too(make_service: Callable[..., Any]) -> None:
    def fail() -> str | None:
        raise OSError("gone")

    assert make_service(ports={"fault": fail}).thresholds().status_code == 503


def test_somebody_who_hangs_up_is_not_answered(service: Any) -> None:
    started = [{"type": "http.request", "body": b"[", "more_body": True}, {"type": "http.disconnect"}]
    assert service.raw(scope("POST", "/v1/equity", content_type="application/json"), started)[0] == 0


def test_hosts_that_were_looked_at_are_remembered_but_not_without_bound(service: Any) -> None:
    for port in range(200):
        assert service.get("/healthz", headers={"Host": f"localhost:{port}"}).status_code == 200
    assert len(service.app._gate._known_hosts) == gate_file._HOSTS_KNOWN_MAX
    assert service.get("/healthz", headers={"Host": "evil.example"}).status_code == 403


def test_refusals_are_counted_by_kind_and_answers_by_route(make_service: Callable[..., Any]) -> None:
    class Seen(Uncounted):
        def __init__(self) -> None:
            self.kinds: list[str] = []
            self.routes: list[tuple[str, int]] = []

        def refused(self, kind: str) -> None:
            self.kinds.append(kind)

        def answered(self, route: str, status: int, seconds: float) -> None:
            assert 0 <= seconds < 60
            self.routes.append((route, status))

    seen = Seen()
    service = make_service(ports={"traffic": seen, "body_bytes_max": 5000})
    service.warm()
    service.thresholds()
    service.get("/v1/thresholds")
    service.get("/nothing/of/the/kind")
    service.request("PUT", "/v1/thresholds")
    service.get("/", headers={"Host": "evil.example"})
    service.post("/v1/equity", {}, headers={"Origin": "http://evil.example"})
    service.post("/v1/equity", ["x" * 6000])
    service.request("DELETE", "/v1/overrides/x")
    assert seen.kinds == ["invalid", "unknown", "method", "host", "origin", "too-large", "unknown"]
    assert seen.routes == [
        ("/v1/observations", 200), ("/v1/thresholds", 200), ("/v1/thresholds", 422), ("none", 404), ("none", 405),
        ("none", 403), ("none", 403), ("none", 413), ("/v1/overrides/{id}", 404),
    ]  # fmt: skip


def test_a_web_socket_is_closed(service: Any) -> None:
    assert service.raw({**scope(), "type": "websocket"}, []) == (0, {}, b"")
