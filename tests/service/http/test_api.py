"""The contract, call by call. Every answer here is also held against /openapi.json (see conftest)."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from regime_service.http.api import VERSION

NDJSON = {"Content-Type": "application/x-ndjson"}
KEY = {"model": "m", "symbol": "BTC/USDT:USDT", "timeframe": "5m"}


def lines(events: list[dict[str, Any]]) -> bytes:
    return b"\n".join(json.dumps(event).encode() for event in events) + b"\n"


def candle(service: Any, **changes: Any) -> dict[str, Any]:
    ts_ms = service.observation()["ts_ms"]
    prices = {"open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5, "volume": 10.0}
    return {"symbol": KEY["symbol"], "timeframe": "5m", "ts_ms": ts_ms, **prices, **changes}


def paths(response: Any) -> list[str]:
    return [error["path"] for error in response.json()["errors"]]


# --- POST: what is taken ---


def test_one_observation_is_answered_with_the_thresholds_of_its_stream(service: Any) -> None:
    body = service.post("/v1/observations", service.observation()).json()
    assert {name: body[name] for name in ("accepted", "duplicates", "late")} == {
        "accepted": 1, "duplicates": 0, "late": 0,
    }  # fmt: skip
    assert "conflicts" not in body
    [told] = body["thresholds"]
    assert {name: told[name] for name in KEY} == KEY
    assert told["epoch"] == service.epoch
    assert [reason["code"] for reason in told["sides"]["long"]["reasons"]] == ["warm-up"]


def test_the_reply_lists_streams_in_order_of_first_touch(service: Any) -> None:
    order = ["C", "A", "B", "A"]
    batch = [service.observation(i - 3, symbol=symbol) for i, symbol in enumerate(order)]
    told = service.post("/v1/observations", batch).json()["thresholds"]
    assert [stream["symbol"] for stream in told] == ["C", "A", "B"]


def test_a_replys_lease_reaches_to_the_next_observation_and_a_polls_does_not(service: Any) -> None:
    assert service.warm().json()["thresholds"][0]["valid_for_ms"] == 350_000
    assert service.thresholds().json()["thresholds"][0]["valid_for_ms"] == 60_000


def test_a_get_after_a_post_is_never_older(service: Any) -> None:
    posted = service.warm().json()["thresholds"][0]
    got = service.thresholds().json()["thresholds"][0]
    assert {**got, "valid_for_ms": 0} == {**posted, "valid_for_ms": 0}


def test_the_same_again_is_a_duplicate_and_changes_nothing(service: Any) -> None:
    first = service.warm().json()
    again = service.warm().json()
    assert (again["accepted"], again["duplicates"]) == (0, 3)
    assert again["thresholds"] == first["thresholds"]


def test_other_content_under_the_same_key_is_a_conflict_that_names_the_item(service: Any) -> None:
    service.warm()
    batch = [service.observation(), service.observation(-1, features={"f1": 9.0, "f2": 2.5, "f3": None})]
    response = service.post("/v1/observations", batch)
    assert response.status_code == 409
    assert paths(response) == ["[1]"]


def test_a_conflict_of_a_single_object_has_no_index(service: Any) -> None:
    service.warm()
    response = service.post("/v1/observations", service.observation(features={"f1": 9.0}))
    assert (response.status_code, paths(response)) == (409, [""])


def test_on_conflict_keep_counts_and_keeps_what_is_stored(service: Any) -> None:
    service.warm()
    batch = [service.observation(features={"f1": 9.0}), service.observation(-5)]
    response = service.post("/v1/observations?on_conflict=keep", batch)
    assert response.status_code == 200
    body = response.json()
    assert (body["accepted"], body["conflicts"], body["late"]) == (1, 1, 1)


def test_an_observation_older_than_the_newest_is_late(service: Any) -> None:
    service.warm()
    body = service.post("/v1/observations", service.observation(-9)).json()
    assert (body["accepted"], body["late"]) == (1, 1)


def test_ndjson_takes_one_object_a_line_and_empty_lines(service: Any) -> None:
    content = b"\n" + lines([service.observation(-1), service.observation()]) + b"\r\n"
    response = service.request("POST", "/v1/observations", content=content, headers=NDJSON)
    assert response.json()["accepted"] == 2
    response = service.request("POST", "/v1/trades", content=lines([service.trade()]), headers=NDJSON)
    assert response.json()["accepted"] == 1


def test_trades_may_come_before_any_observation(service: Any) -> None:
    body = service.post("/v1/trades", [service.trade("a"), service.trade("b", shadow=True)]).json()
    assert (body["accepted"], body["late"]) == (2, 0)
    assert body["thresholds"][0]["data_until_ms"] is None
    assert body["thresholds"][0]["valid_for_ms"] == 60_000


def test_equity_reaches_every_stream_of_the_model(service: Any) -> None:
    service.warm(symbol="A")
    service.warm(symbol="B")
    body = service.post("/v1/equity", {"model": "m", "ts_ms": service.now_ms, "equity": 1000.0}).json()
    assert [stream["symbol"] for stream in body["thresholds"]] == ["A", "B"]


@pytest.mark.parametrize("as_array", [True, False])
def test_candles_come_as_an_array_or_as_one_object(service: Any, as_array: bool) -> None:
    service.warm()
    one = candle(service)
    body = service.post("/v1/candles", [one] if as_array else one).json()
    assert (body["accepted"], len(body["thresholds"])) == (1, 1)


@pytest.mark.parametrize(("content", "headers"), [(b"[]", {"Content-Type": "application/json"}), (b"\n", NDJSON)])
def test_nothing_is_taken_as_nothing(service: Any, content: bytes, headers: dict[str, str]) -> None:
    response = service.request("POST", "/v1/observations", content=content, headers=headers)
    assert response.json() == {"accepted": 0, "duplicates": 0, "late": 0, "thresholds": []}


def test_a_large_body_is_taken_too(service: Any) -> None:
    features = {f"f{i}": i / 7 for i in range(200)}
    batch = [service.observation(i - 99, features=features) for i in range(100)]
    assert service.post("/v1/observations", batch).json()["accepted"] == 100


def test_the_kind_may_stand_in_the_body_if_it_is_right(service: Any) -> None:
    assert service.post("/v1/observations", service.observation(kind="observation")).status_code == 200
    assert service.post("/v1/observations", service.observation(-1, kind="trade")).status_code == 422


# --- POST: what is refused ---


def test_errors_name_the_item_and_the_feature(service: Any) -> None:
    batch = [service.observation(i - 40) for i in range(40)]
    batch[30]["features"]["f3"] = "high"
    response = service.post("/v1/observations", batch)
    assert response.status_code == 422
    assert paths(response) == ["[30].features.f3"]
    assert not service.log


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_no_number_is_refused_by_name(service: Any, number: str) -> None:
    content = json.dumps([service.observation(), service.observation(-1)]).replace("2.5", number, 1)
    response = service.request(
        "POST", "/v1/observations", content=content, headers={"Content-Type": "application/json; charset=utf-8"}
    )
    assert (response.status_code, paths(response)) == (422, ["[0].features.f2"])


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"timeframe": "5 minutes"}, "timeframe"),
        ({"ts_ms": "now"}, "ts_ms"),
        ({"ts_ms": -1}, "ts_ms"),
        ({"ts_ms": 1_762_146_000_000_000}, "ts_ms"),
        ({"symbol": ""}, "symbol"),
        ({"symbol": "a\x00b"}, "symbol"),
        ({"model": "x" * 129}, "model"),
        ({"probabilities": {"long": 1.5}}, "probabilities.long"),
        ({"candle": {"open": 1, "high": 0.5, "low": 0.4, "close": 0.45, "volume": 1}}, "candle.high"),
    ],
)
def test_a_value_that_makes_no_sense_is_422_and_named(service: Any, change: dict[str, Any], path: str) -> None:
    response = service.post("/v1/observations", service.observation(**change))
    assert (response.status_code, paths(response)) == (422, [path])


@pytest.mark.parametrize("content", [b"", b"{", b"nonsense", b"\xff\xfe", b'{"model":"\xed\xa0\x80"}', b"[" * 100_000])
def test_what_is_no_json_is_400(service: Any, content: bytes) -> None:
    response = service.request(
        "POST", "/v1/observations", content=content, headers={"Content-Type": "application/json"}
    )
    assert response.status_code in (400, 422)
    assert not service.log


def test_a_time_in_the_future_is_refused_by_path(service: Any) -> None:
    ahead = service.now_ms + 61_000
    for path, body, named in (
        ("observations", [service.observation(), service.observation(ts_ms=ahead)], "[1].ts_ms"),
        ("observations", service.observation(ts_ms=ahead), "ts_ms"),
        ("trades", [service.trade(closed_ms=ahead)], "[0].closed_ms"),
        ("equity", {"model": "m", "ts_ms": ahead, "equity": 1.0}, "ts_ms"),
        ("candles", [candle(service, ts_ms=ahead)], "[0].ts_ms"),
    ):
        response = service.post(f"/v1/{path}", body)
        assert (response.status_code, paths(response)) == (422, [named])
    assert not service.log
    assert service.post("/v1/observations", service.observation(ts_ms=service.now_ms + 59_000)).status_code == 200


def test_on_event_time_no_time_is_in_the_future(make_service: Callable[..., Any]) -> None:
    service = make_service(clock="event")
    body = service.post("/v1/observations", service.observation(ts_ms=4_000_000_000_000)).json()
    assert body["accepted"] == 1
    assert body["thresholds"][0]["valid_for_ms"] == 360_000


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        [("Content-Type", "application/json"), ("Content-Type", "text/plain")],
    ],
)
@pytest.mark.parametrize("path", ["observations", "trades", "equity", "candles", "overrides"])
def test_another_content_type_is_415(service: Any, path: str, headers: Any) -> None:
    response = service.request("POST", f"/v1/{path}", content=b"[]", headers=headers)
    assert response.status_code == 415


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON;charset=UTF-8", 'application/json; charset="utf-8"']
)
def test_json_may_say_that_it_is_utf_8(service: Any, content_type: str) -> None:
    response = service.request("POST", "/v1/equity", content=b"[]", headers={"Content-Type": content_type})
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["equity", "candles", "overrides"])
def test_ndjson_is_for_observations_and_trades_only(service: Any, path: str) -> None:
    assert service.request("POST", f"/v1/{path}", content=b"", headers=NDJSON).status_code == 415


def test_a_typing_error_in_the_query_of_a_post_is_refused_with_the_right_word(service: Any) -> None:
    response = service.post("/v1/observations?on_conflit=keep", [])
    assert response.status_code == 422
    assert "did you mean `on_conflict`?" in response.json()["detail"]
    assert service.post("/v1/observations?on_conflict=replace", []).status_code == 422
    assert service.post("/v1/observations?on_conflict=keep&on_conflict=refuse", []).status_code == 422


def test_a_full_queue_is_503_with_the_time_to_wait(service: Any) -> None:
    service.full = True
    response = service.warm()
    assert (response.status_code, response.headers["Retry-After"]) == (503, "2")


def test_an_unknown_stream_is_404_where_streams_do_not_come_into_being_by_themselves(
    make_service: Callable[..., Any],
) -> None:
    assert make_service(auto_register=False).warm().status_code == 404


# --- GET /v1/thresholds ---


def test_an_answer_has_exactly_the_fields_of_the_contract(service: Any) -> None:
    service.warm()
    body = service.thresholds().json()
    assert set(body) == {"server_time_ms", "thresholds", "unknown"}
    assert body["server_time_ms"] == service.now_ms
    [told] = body["thresholds"]
    assert set(told) == {
        "model", "symbol", "timeframe", "mode", "version", "epoch", "as_of_ms", "data_until_ms", "valid_for_ms",
        "regime", "sides", "reference_id", "policy_id",
    }  # fmt: skip
    assert set(told["sides"]["short"]) == {"state", "entry", "exit", "size_factor", "reasons", "resume"}


def test_in_shadow_mode_what_would_have_been_said_is_computed(make_service: Callable[..., Any]) -> None:
    service = make_service(mode="shadow")
    told = service.warm().json()["thresholds"][0]
    assert told["mode"] == "shadow"
    assert set(told["computed"]) == {"long", "short"}


def test_a_single_unknown_stream_is_404(service: Any) -> None:
    service.warm()
    assert service.thresholds("ETH/USDT:USDT").status_code == 404


def test_unknown_symbols_of_a_list_are_named_and_the_rest_is_answered_in_order(service: Any) -> None:
    for symbol in ("A", "B"):
        service.warm(symbol=symbol)
    body = service.thresholds("B, nope ,A,B").json()
    assert [told["symbol"] for told in body["thresholds"]] == ["B", "A"]
    assert body["unknown"] == ["nope"]
    assert service.thresholds("nope,neither").json()["unknown"] == ["nope", "neither"]
    assert service.thresholds("nope,").json()["unknown"] == ["nope"]


@pytest.mark.parametrize(
    "query",
    [
        "", "model=m&symbol=A", "model=m&symbol=&timeframe=5m", "model=m&symbol=,&timeframe=5m",
        "model=m&model=n&symbol=A&timeframe=5m", f"model=m&symbol={','.join(map(str, range(1001)))}&timeframe=5m",
    ],
)  # fmt: skip
def test_a_wrong_query_is_422_and_names_the_parameter(service: Any, query: str) -> None:
    response = service.get(f"/v1/thresholds?{query}")
    assert response.status_code == 422
    assert set(paths(response)) <= {"model", "symbol", "timeframe"}
    assert paths(response)


@pytest.mark.parametrize(
    "query", [b"model=%ff&symbol=A&timeframe=5m", b"model=%ED%A0%80", b"\xff", b"&".join([b"a=1"] * 99)]
)
def test_a_query_that_cannot_be_read_is_400(service: Any, query: bytes) -> None:
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": "/v1/thresholds",
        "query_string": query, "root_path": "", "scheme": "http", "headers": [(b"host", b"localhost")],
    }  # fmt: skip
    status, _, body = service.raw(scope, [{"type": "http.request", "body": b""}])
    assert (status, json.loads(body)["status"]) == (400, 400)


def test_a_parameter_nobody_knows_does_not_disturb_a_get(service: Any) -> None:
    service.warm()
    assert service.get("/v1/thresholds", params={**KEY, "_": "123"}).status_code == 200


def test_an_unchanged_answer_is_304_and_renews_the_lease(service: Any) -> None:
    service.warm()
    etag = service.thresholds().headers["ETag"]
    assert etag.startswith('W/"')
    for header in (etag, etag.removeprefix("W/"), f'"x,y", {etag}', "*"):
        response = service.thresholds(headers={"If-None-Match": header})
        assert response.status_code == 304
        assert response.headers["ETag"] == etag
        assert response.headers["Regime-Valid-For-Ms"] == "60000"
        assert not response.content
    for header in ('"x"', 'W/"y"', "", "nonsense", etag.replace('"', "")):
        assert service.thresholds(headers={"If-None-Match": header}).status_code == 200


def test_the_etag_changes_with_version_epoch_and_the_streams_listed(service: Any) -> None:
    for symbol in ("A", "B"):
        service.warm(symbol=symbol)
    seen = {service.thresholds(symbols).headers["ETag"] for symbols in ("A", "B", "A,B", "B,A", "A,B,C", "A,B,D")}
    service.epoch = "01K94S00000000000000000000"
    seen.add(service.thresholds("A").headers["ETag"])
    service.now_ms += 1_000_000
    service.tick()
    seen.add(service.thresholds("A").headers["ETag"])
    assert len(seen) == 8


def test_a_stale_stream_is_paused_without_waiting_for_a_request(service: Any) -> None:
    service.warm()
    etag = service.thresholds().headers["ETag"]
    service.now_ms += 3 * 300_000
    service.tick()
    response = service.thresholds(headers={"If-None-Match": etag})
    assert response.status_code == 200
    assert response.json()["thresholds"][0]["sides"]["long"]["state"] == "REDUCING"


def test_every_kind_of_answer_leases_an_active_on_old_data_for_nought(service: Any) -> None:
    """Before the writer has looked at the clock: the machine has just woken, or the disk hangs."""
    for symbol in ("A", "B"):
        service.warm(symbol=symbol)
    etag = {symbols: service.thresholds(symbols).headers["ETag"] for symbols in ("A", "A,B")}
    for symbols in ("A", "A,B"):
        assert service.thresholds(symbols).json()["thresholds"][0]["valid_for_ms"] == 60_000
    service.now_ms += 3 * 300_000
    for symbols in ("A", "A,B"):
        answer = service.thresholds(symbols)
        (told, *others) = answer.json()["thresholds"]
        assert told["sides"]["long"]["state"] == "ACTIVE", "nobody has looked yet"
        assert {each["valid_for_ms"] for each in (told, *others)} == {0}
        unchanged = service.thresholds(symbols, headers={"If-None-Match": etag[symbols]})
        assert (unchanged.status_code, unchanged.headers["Regime-Valid-For-Ms"]) == (304, "0")


# --- the trail and the evidence ---


def test_the_trail_is_paged_by_version(service: Any) -> None:
    for i in range(4):
        service.now_ms += i * 2_000_000
        service.tick()
        service.post("/v1/observations", service.observation(ts_ms=service.now_ms - 300_000))
    versions: list[int] = []
    since, page = 0, ["first"]
    while page:
        body = service.get("/v1/decisions", params={**KEY, "since_version": since, "limit": 2}).json()
        page, since = body["decisions"], body["next_since_version"]
        versions += [decision["version"] for decision in page]
        assert all(decision["valid_for_ms"] == 0 for decision in page)
    assert versions == list(range(1, len(versions) + 1))
    assert len(versions) > 4
    assert since == versions[-1]


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "limit=", "since_version=-1", "since_version=٣"])
def test_a_wrong_page_is_422(service: Any, query: str) -> None:
    service.warm()
    response = service.get(f"/v1/decisions?model=m&symbol=BTC/USDT:USDT&timeframe=5m&{query}")
    assert (response.status_code, paths(response)) == (422, [query.partition("=")[0]])


def test_trail_and_evidence_of_an_unknown_stream_are_404(service: Any) -> None:
    assert service.get("/v1/decisions", params=KEY).status_code == 404
    assert service.get("/v1/explain", params=KEY).status_code == 404


def test_the_evidence_is_json_even_where_a_statistic_is_not_known(service: Any) -> None:
    service.warm()
    assert service.get("/v1/explain", params=KEY).json() == {"model": "m", "observations": 3, "statistic": None}


# --- references ---


def reference_bodies() -> list[tuple[str, bytes]]:
    frame = pd.DataFrame({"f1": np.arange(10.0), "f2": np.arange(10.0) ** 2, "f3": np.ones(10)})
    parquet = io.BytesIO()
    frame.to_parquet(parquet, index=False)
    return [
        ("text/csv", frame.to_csv(index=False).encode()),
        ("application/x-ndjson", frame.to_json(orient="records", lines=True).encode()),
        ("application/vnd.apache.parquet", parquet.getvalue()),
    ]


def test_a_reference_of_any_form_is_put_in_force_and_the_same_content_is_the_same_reference(service: Any) -> None:
    service.warm()
    ids = set()
    for i, (content_type, body) in enumerate(reference_bodies()):
        response = service.request(
            "PUT", f"/v1/models/m/references/v{i}", params={"trained_until_ms": 1_700_000_000_000}, content=body,
            headers={"Content-Type": content_type},
        )  # fmt: skip
        assert response.status_code == 200
        answer = response.json()
        assert (answer["version"], answer["rows"], answer["features"]) == (f"v{i}", 10, 3)
        assert (answer["duplicate"], answer["trained_until_ms"]) == (False, 1_700_000_000_000)
        assert answer["thresholds"][0]["reference_id"] == answer["reference_id"]
        ids.add(answer["reference_id"])
    assert len(ids) == 1


def put(service: Any, body: Any, version: str = "v1", content_type: str = "text/csv", **params: Any) -> Any:
    return service.request(
        "PUT", f"/v1/models/m/references/{version}", params=params, content=body, headers={"Content-Type": content_type}
    )


def test_the_same_version_with_the_same_content_is_a_duplicate_and_with_other_content_a_conflict(service: Any) -> None:
    assert put(service, b"f1,f2\n1,2\n", symbol="A", timeframe="5m").json()["duplicate"] is False
    service.now_ms += 5_000
    assert put(service, b"f1,f2\n1,2\n", symbol="A", timeframe="5m").json()["duplicate"] is True
    assert put(service, b"f1,f2\n1,3\n", symbol="A", timeframe="5m").status_code == 409


def test_a_reference_for_one_stream_makes_the_stream(service: Any) -> None:
    answer = put(service, b"f1\n1\n2\n", symbol="NEW", timeframe="5m").json()
    assert [told["symbol"] for told in answer["thresholds"]] == ["NEW"]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"f1\n1\n", "application/json", 415),
        (b"f1\n1\n", "", 415),
        (b"", "text/csv", 400),
        (b"f1\n", "text/csv", 422),
        (b"f1\nx\n", "text/csv", 422),
        (b"\x00\x01", "application/vnd.apache.parquet", 422),
        (b"\x00\x01", "application/x-parquet", 422),
        (b"{", "application/x-ndjson", 422),
    ],
)
def test_what_is_no_reference_is_refused(service: Any, body: bytes, content_type: str, status: int) -> None:
    assert put(service, body, content_type=content_type).status_code == status
    assert not service.log


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"trained_until_ms": "soon"}, "trained_until_ms"),
        ({"trained_until_ms": 2_000_000_000_000}, "trained_until_ms"),
        ({"timefram": "5m"}, "timefram"),
        ({"symbol": ""}, "symbol"),
        ({"timeframe": "five"}, "timeframe"),
        ({"symbol": "a\nb"}, "symbol"),
        ({"symbol": "x" * 200}, "symbol"),
    ],
)
def test_a_wrong_address_of_a_reference_is_422_before_its_body_is_read(
    service: Any, params: dict[str, Any], path: str
) -> None:
    response = put(service, b"", **params)
    assert (response.status_code, paths(response)) == (422, [path])


def test_a_version_that_is_too_long_is_422(service: Any) -> None:
    assert paths(put(service, b"f1\n1\n", version="v" * 200)) == ["version"]


def test_a_decoder_that_says_in_words_what_is_wrong_is_422(make_service: Callable[..., Any]) -> None:
    def refuse(_file: Any, _media: str) -> Any:
        raise ValueError("feature names stand twice: f1")

    response = put(make_service(ports={"decode_reference": refuse}), b"f1,f1\n1,1\n")
    assert response.status_code == 422
    assert "feature names stand twice: f1" in response.json()["detail"]


def test_no_room_for_the_upload_is_503_and_says_so(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.SpooledTemporaryFile.write", full)
    response = put(service, b"f1\n1\n")
    assert response.status_code == 503
    assert "No space left" in response.json()["detail"]


def test_a_reference_larger_than_memory_is_kept_for_goes_through_a_file(service: Any) -> None:
    body = b"f1\n" + b"1.234567\n" * 500_000
    assert len(body) > 4 * 1024 * 1024

    async def pieces() -> Any:
        for at in range(0, len(body), 1 << 20):
            yield body[at : at + (1 << 20)]

    response = put(service, pieces())
    assert (response.status_code, response.json()["rows"]) == (200, 500_000)


# --- overrides ---


def override(**changes: Any) -> dict[str, Any]:
    return {"model": "m", "state": "HALTED", "actor": "ann", "reason": "exchange is down", **changes}


def states(service: Any) -> list[str]:
    sides = service.thresholds().json()["thresholds"][0]["sides"]
    return [sides[side]["state"] for side in ("long", "short")]


def test_an_override_is_in_force_with_its_answer_and_ends_with_its_deletion(service: Any) -> None:
    service.warm()
    answer = service.post("/v1/overrides", override(side="long")).json()
    assert set(answer) == {"id"}
    assert len(answer["id"]) == 26
    assert states(service) == ["HALTED", "ACTIVE"]
    assert service.request("DELETE", f"/v1/overrides/{answer['id']}").json() == answer
    assert states(service) == ["REDUCING", "ACTIVE"]
    assert service.request("DELETE", f"/v1/overrides/{answer['id']}").status_code == 404


def test_a_word_that_was_taken_back_is_not_said_to_be_in_force_again(make_service: Any) -> None:
    service = make_service(clock="event")  # no time passes there between two words
    service.warm()
    said = override(id="stop-1", state="HALTED")
    assert service.post("/v1/overrides", said).status_code == 200
    assert service.post("/v1/overrides", said).status_code == 200, "the same word twice, while it stands"
    assert service.request("DELETE", "/v1/overrides/stop-1").status_code == 200
    again = service.post("/v1/overrides", said)
    assert again.status_code == 409 and "NOT in force" in again.json()["detail"]
    assert not service.overrides()
    assert service.post("/v1/overrides", override(id="stop-2", state="HALTED")).status_code == 200
    assert set(service.overrides()) == {"stop-2"}


def test_an_override_is_idempotent_on_its_id(service: Any) -> None:
    service.warm()
    for _ in range(2):
        assert service.post("/v1/overrides", override(id="stop-1")).json() == {"id": "stop-1"}
        service.now_ms += 1_000
    assert service.post("/v1/overrides", override(id="stop-1", state="ACTIVE")).status_code == 409
    assert len(service.overrides()) == 1


def test_an_active_by_override_is_not_leased_beyond_its_end(service: Any) -> None:
    service.warm()
    until_ms = service.now_ms + 20_000
    service.post("/v1/overrides", override(state="ACTIVE", until_ms=until_ms))
    first = service.thresholds()
    assert first.json()["thresholds"][0]["valid_for_ms"] == 20_000
    assert service.warm().json()["thresholds"][0]["valid_for_ms"] == 20_000
    service.now_ms += 15_000
    renewed = service.thresholds(headers={"If-None-Match": first.headers["ETag"]})
    assert (renewed.status_code, renewed.headers["Regime-Valid-For-Ms"]) == (304, "5000")


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"until_ms": 1_762_146_309_999}, "until_ms"),
        ({"state": "STOP"}, "state"),
        ({"side": "both"}, "side"),
        ({"timeframe": "5"}, "timeframe"),
        ({"actor": ""}, "actor"),
        ({"reason": None}, "reason"),
        ({"id": "a/b"}, "id"),
        ({"id": ""}, "id"),
        ({"symbol": "a\x07"}, "symbol"),
        ({"extra": 1}, ""),
    ],
)
def test_a_wrong_override_is_422(service: Any, change: dict[str, Any], path: str) -> None:
    service.warm()
    response = service.post("/v1/overrides", override(**change))
    assert (response.status_code, paths(response)) == (422, [path])
    assert not service.overrides()


def test_a_peak_reset_is_recorded_with_who_asked_and_why(service: Any) -> None:
    service.warm()
    word = {"model": override()["model"], "actor": "me", "reason": "the loss was looked into"}
    answer = service.post("/v1/peak-resets", word)
    assert answer.status_code == 200
    assert len(answer.json()["id"]) == 26
    assert service.post("/v1/peak-resets", word | {"model": "nobody"}).status_code == 404
    assert service.post("/v1/peak-resets", [word]).status_code == 422
    response = service.post("/v1/peak-resets", word | {"reason": ""})
    assert (response.status_code, paths(response)) == (422, ["reason"])


def test_an_override_is_one_object(service: Any) -> None:
    service.warm()
    assert service.post("/v1/overrides", [override()]).status_code == 422
    assert service.post("/v1/overrides", []).status_code == 422


def test_an_override_of_an_unknown_model_is_404(service: Any) -> None:
    service.warm()
    response = service.post("/v1/overrides", override(model="M"))
    assert (response.status_code, paths(response)) == (404, ["model"])


def test_on_event_time_an_operators_word_bears_the_models_own_time(make_service: Callable[..., Any]) -> None:
    service = make_service(clock="event")
    event_ms = service.warm().json()["thresholds"][0]["as_of_ms"]
    assert service.post("/v1/overrides", override(until_ms=event_ms)).status_code == 422
    override_id = service.post("/v1/overrides", override(until_ms=event_ms + 1)).json()["id"]
    assert service.overrides()[override_id].ts_ms == event_ms


# --- the service itself ---


def test_the_first_page_names_the_service_its_version_and_the_docs(service: Any) -> None:
    text = service.get("/").text
    assert "regimegate" in text
    assert VERSION in text
    assert "/docs" in text


def test_alive_ready_metrics_and_docs(service: Any) -> None:
    assert service.get("/healthz").json() == {"status": "alive"}
    assert service.get("/readyz").json() == {"ready": True, "queue_depth": 0, "queue_max": 1000}
    metrics = service.get("/metrics")
    assert metrics.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "/openapi.json" in service.get("/docs").text
    assert service.get("/openapi.json").json()["openapi"].startswith("3.1")


def test_a_paused_stream_does_not_make_the_service_unready(service: Any) -> None:
    service.post("/v1/observations", service.observation())
    assert service.get("/readyz").status_code == 200


def test_an_unknown_address_is_404_and_a_wrong_method_405(service: Any) -> None:
    for path in ("/nothing", "/v1/thresholds/", "/v1/overrides/a/b"):
        response = service.get(path)
        assert (response.status_code, response.json()["status"]) == (404, 404)
        assert "/docs" in response.json()["detail"]
    response = service.request("POST", "/v1/thresholds")
    assert (response.status_code, response.headers["Allow"]) == (405, "GET")
    assert response.headers["Content-Type"] == "application/problem+json"
