"""/openapi.json: it is valid OpenAPI 3.1, names every call of the contract, and says of bodies what the codec does.

That real answers agree with it is checked at every request of the other tests, in conftest.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from regime.codec import parse
from regime.errors import CallerError
from regime.events import Candle, Equity, Observation, Trade
from regime_service.http.schema import Override

CONTRACT = {
    ("post", "/v1/observations"), ("post", "/v1/trades"), ("post", "/v1/equity"), ("post", "/v1/candles"),
    ("put", "/v1/models/{model}/references/{version}"), ("get", "/v1/thresholds"), ("get", "/v1/decisions"),
    ("get", "/v1/explain"), ("get", "/v1/stream"), ("post", "/v1/overrides"), ("delete", "/v1/overrides/{id}"),
    ("get", "/metrics"),
    ("get", "/healthz"), ("get", "/readyz"), ("get", "/"),
    ("post", "/v1/peak-resets"),  # Ours: the contract leaves open how an operator resets the peak.
}  # fmt: skip


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method, path, operation


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(child)


def test_every_call_of_the_contract_is_documented_and_no_other(service: Any) -> None:
    assert {(method, path) for method, path, _ in operations(service.document)} == CONTRACT


def test_the_document_is_well_formed(service: Any) -> None:
    document = json.loads(json.dumps(service.document, allow_nan=False))
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    assert document["info"]["title"]
    assert document["info"]["version"]
    ids = [operation["operationId"] for *_, operation in operations(document)]
    assert len(ids) == len(set(ids))
    for method, path, operation in operations(document):
        assert operation["summary"], path
        parameters = operation.get("parameters", [])
        for parameter in parameters:
            assert parameter["in"] in ("query", "path", "header")
            assert isinstance(parameter["required"], bool)
            assert parameter["schema"]["type"] in ("string", "integer")
        assert set(re.findall(r"{(\w+)}", path)) == {p["name"] for p in parameters if p["in"] == "path"}
        assert all(p["required"] for p in parameters if p["in"] == "path")
        assert ("requestBody" in operation) == (method in ("post", "put")), path
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[1-5]\d\d", status)
            assert response["description"]
            for media, content in response.get("content", {}).items():
                assert (media == "application/problem+json") == (int(status) >= 400), (path, status)
                assert content["schema"]


def test_every_reference_resolves_and_every_schema_is_used(service: Any) -> None:
    used = {node["$ref"] for node in nodes(service.document) if "$ref" in node}
    known = {f"#/components/schemas/{name}" for name in service.document["components"]["schemas"]}
    assert used == known


def test_everything_under_v1_may_answer_403_and_503_and_a_post_413_and_415(service: Any) -> None:
    for method, path, operation in operations(service.document):
        assert "403" in operation["responses"], path
        assert "500" not in operation["responses"]
        if path.startswith("/v1/"):
            assert {"400", "422", "503"} <= set(operation["responses"]), path
        if method in ("post", "put"):
            assert {"409", "413", "415"} <= set(operation["responses"]), path


def test_the_kind_of_an_event_need_not_be_sent(service: Any) -> None:
    for name in ("Observation", "Trade", "Equity", "Candle", "Override"):
        schema = service.document["components"]["schemas"][name]
        assert "kind" not in schema["required"]
        assert schema["additionalProperties"] is False


def test_a_side_of_the_answer_names_the_three_states(service: Any) -> None:
    schemas = service.document["components"]["schemas"]
    assert set(schemas["TradingState"]["enum"]) == {"ACTIVE", "REDUCING", "HALTED"}
    assert set(schemas["StreamThresholds"]["required"]) >= {"version", "epoch", "valid_for_ms", "sides"}


def bodies(service: Any) -> dict[str, tuple[type[Any], dict[str, Any]]]:
    prices = {"open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5, "volume": 10.0}
    taken = {"probabilities": {"long": 0.9, "exit_short": None}, "taken": {"long": True}, "candle": prices}
    return {
        "Observation": (Observation, service.observation(**taken)),
        "Trade": (Trade, service.trade(entry_probability=0.9, exit_reason="ml_exit", leverage=3.0, size_ratio=0.1)),
        "Equity": (Equity, {"model": "m", "ts_ms": 1, "equity": 10.0, "net_flow": -5}),
        "Candle": (Candle, {"symbol": "s", "timeframe": "1h", "ts_ms": 1, **prices}),
        "Override": (Override, {"model": "m", "state": "HALTED", "actor": "a", "reason": "r", "until_ms": 1}),
    }


values = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(-2, 2), st.text(max_size=3), st.just("x" * 129),
    st.sampled_from(["5m", "0m", "1M", "long", "ACTIVE", "\x00", 5_000_000_000_000, [], {}, [1], {"long": 0.5}]),
)  # fmt: skip
CROSS = re.compile(r"must lie between|is after closed_ms")


@pytest.mark.parametrize("name", ["Observation", "Trade", "Equity", "Candle", "Override"])
def test_the_codec_takes_exactly_what_the_document_describes(service: Any, name: str) -> None:
    """But for what a schema cannot say: that a price or a time lies between others."""
    kind, valid = bodies(service)[name]

    @settings(max_examples=150)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        body = copy.deepcopy(valid)
        node, field = body, ""
        while True:
            choices = sorted(node) + (["new"] if data.draw(st.booleans()) else [])
            field = data.draw(st.sampled_from(choices or ["new"]))
            if not isinstance(node.get(field), dict) or data.draw(st.booleans()):
                break
            node = node[field]
        if field in node and data.draw(st.booleans()):
            del node[field]
        else:
            node[field] = data.draw(values)
        faults = list(service.checker.faults(body, {"$ref": f"#/components/schemas/{name}"}))
        try:
            parse(json.dumps(body).encode(), kind)
        except CallerError as error:
            assert faults or all(CROSS.search(e.message) for e in error.errors), (body, error.errors)
        else:
            assert not faults, (body, faults)

    check()


def test_the_checker_finds_what_is_wrong(service: Any) -> None:
    """A checker that finds nothing would let everything through."""
    answer = service.warm().json()
    schema = {"$ref": "#/components/schemas/IngestAnswer"}
    assert not list(service.checker.faults(answer, schema))
    for wrong in (
        {**answer, "accepted": "1"}, {**answer, "more": 1}, {"accepted": 1}, {**answer, "thresholds": [{}]}, [], None,
    ):  # fmt: skip
        assert list(service.checker.faults(wrong, schema))
