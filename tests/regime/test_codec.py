from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from regime.codec import ERRORS_MAX, FEATURES_MAX, check, decode, encode, parse
from regime.errors import CallerError, CorruptionError
from regime.events import (
    TS_MS_MAX,
    AnyEvent,
    Candle,
    Command,
    Equity,
    Event,
    ModelPromoted,
    Observation,
    Ohlcv,
    Probabilities,
    Recalibrated,
    Reconfigured,
    Taken,
    Tick,
    Trade,
    available_ms,
)

OBSERVATION: dict[str, Any] = {
    "model": "m", "symbol": "BTC/USDT:USDT", "timeframe": "5m", "ts_ms": 300_000, "features": {"b": 2, "a": 1.5},
}  # fmt: skip
TRADE: dict[str, Any] = {
    "model": "m", "symbol": "BTC/USDT:USDT", "timeframe": "5m", "trade_id": "7", "side": "long", "opened_ms": 1,
    "closed_ms": 2, "entry_price": 1.0, "exit_price": 1.0, "profit_ratio": -0.01,
}  # fmt: skip
CANDLE: dict[str, Any] = {
    "symbol": "s", "timeframe": "5m", "ts_ms": 0, "open": 2.0, "high": 3.0, "low": 1.0, "close": 2.0, "volume": 0.0,
}  # fmt: skip


def raw(body: Any) -> bytes:
    return json.dumps(body).encode()


def refused(body: bytes, kind: type[Event] = Observation, *, ndjson: bool = False) -> CallerError:
    with pytest.raises(CallerError) as caught:
        parse(body, kind, ndjson=ndjson)
    assert caught.value.errors
    assert all(error.message for error in caught.value.errors)
    caught.value.detail.encode()
    return caught.value


# -- what comes in ---------------------------------------------------------------------------------------------------


def test_one_object_and_an_array_of_one_are_the_same() -> None:
    assert parse(raw(OBSERVATION), Observation) == parse(raw([OBSERVATION]), Observation)


def test_one_object_a_line() -> None:
    lines = raw(OBSERVATION) + b"\r\n\n  " + raw({**OBSERVATION, "ts_ms": 600_000}) + b"\n"
    assert [event.ts_ms for event in parse(lines, Observation, ndjson=True)] == [300_000, 600_000]


def test_no_events_are_no_events() -> None:
    assert parse(b"[]", Observation) == []
    assert parse(b"\n", Observation, ndjson=True) == []


def test_null_is_a_missing_value_and_whole_numbers_are_numbers() -> None:
    (event,) = parse(raw({**OBSERVATION, "features": {"a": None, "b": 3}}), Observation)
    assert event.features == {"a": None, "b": 3.0}
    assert isinstance(event.features["b"], float)


def test_of_a_key_that_stands_twice_the_last_one_counts() -> None:
    (event,) = parse(raw(OBSERVATION).replace(b'{"b"', b'{"a": 9, "b"'), Observation)
    assert event.features["a"] == 1.5


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"ts_ms": "1"}, "ts_ms"),
        ({"ts_ms": True}, "ts_ms"),
        ({"ts_ms": 1.5}, "ts_ms"),
        ({"ts_ms": -1}, "ts_ms"),
        ({"ts_ms": 1_762_146_300_000_000}, "ts_ms"),
        ({"model": ""}, "model"),
        ({"model": "x" * 129}, "model"),
        ({"model": "a\0b"}, "model"),
        ({"symbol": "a\nb"}, "symbol"),
        ({"symbol": 5}, "symbol"),
        ({"timeframe": "5q"}, "timeframe"),
        ({"timeframe": 5}, "timeframe"),
        ({"features": []}, "features"),
        ({"features": {"a": "x"}}, "features.a"),
        ({"features": {"ok": 1, "a": True}}, "features.a"),
        ({"features": {"a": [1]}}, "features.a"),
        ({"features": {"a": {}}}, "features.a"),
        ({"features": {"a": math.nan}}, "features.a"),
        ({"features": {"a": math.inf}}, "features.a"),
        ({"features": {"a": -math.inf}}, "features.a"),
        ({"features": {"a": 10**320}}, "features.a"),
        ({"features": {"a": 10**400}}, "features.a"),
        ({"features": {"a": -(10**4000)}}, "features.a"),
        ({"probabilities": {"long": 1.01}}, "probabilities.long"),
        ({"probabilities": {"long": math.nan}}, "probabilities.long"),
        ({"probabilities": {"short": -0.01}}, "probabilities.short"),
        ({"probabilities": []}, "probabilities"),
        ({"taken": {"long": 1}}, "taken.long"),
        ({"candle": {**CANDLE, "symbol": "s"}}, "candle"),
        ({"candle": {"open": 0, "high": 1, "low": 1, "close": 1, "volume": 0}}, "candle.open"),
        ({"candle": {"open": 1, "high": 1, "low": 1, "close": 1, "volume": -1}}, "candle.volume"),
        ({"candle": {"open": 1, "high": 1, "low": 1, "close": 2, "volume": 0}}, "candle.high"),
        ({"candle": {"open": 1, "high": 2, "low": 1.5, "close": 2, "volume": 0}}, "candle.low"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(change: dict[str, Any], path: str) -> None:
    body = {**OBSERVATION, **change}
    alone = refused(raw(body))
    assert alone.status_hint == 422
    assert alone.errors[0].path == path

    batch = refused(raw([OBSERVATION] * 30 + [body]))
    assert batch.status_hint == 422
    assert batch.errors[0].path == f"[30].{path}"

    line = refused(raw(OBSERVATION) + b"\n" + raw(body), ndjson=True)
    assert line.status_hint == 422
    assert line.errors[0].path == f"[1].{path}"


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"NaN", b"Infinity", b"-Infinity", b"1" * 6000])
def test_a_number_that_no_float_holds_is_a_wrong_value(number: bytes) -> None:
    error = refused(raw(OBSERVATION).replace(b"1.5", number))
    assert (error.status_hint, error.errors[0].path) == (422, "features.a")


def test_every_number_at_fault_is_named_up_to_a_limit() -> None:
    body = [{**OBSERVATION, "features": {f"f{i}": math.nan for i in range(ERRORS_MAX + 5)}}]
    error = refused(raw(body))
    assert [e.path for e in error.errors] == [f"[0].features.f{i}" for i in range(ERRORS_MAX)]
    assert "5 more" in error.detail
    assert "Nothing was stored" in error.detail


@pytest.mark.parametrize("profit", [1.1e6, -1.7e308])
def test_a_profit_that_is_no_ratio_is_refused(profit: float) -> None:
    assert parse(raw(TRADE | {"profit_ratio": -1e6}), Trade)
    (error,) = refused(raw(TRADE | {"profit_ratio": profit}), Trade).errors
    assert error.path == "profit_ratio"
    assert "no ratio" in error.message


@pytest.mark.parametrize(("kind", "body"), [(Observation, OBSERVATION), (Candle, CANDLE)])
def test_a_candle_closes_within_the_time_that_the_log_can_hold(kind: type[Event], body: dict[str, Any]) -> None:
    last_ms = TS_MS_MAX - 86_400_000
    (event,) = parse(raw(body | {"timeframe": "1d", "ts_ms": last_ms}), kind)
    close_ms = available_ms(event)  # type: ignore[arg-type]
    # The stream's clock, and with it the time of every Tick and of an operator's word.
    assert close_ms is not None
    assert decode(encode(Tick(model="m", symbol="s", timeframe="1d", ts_ms=close_ms)))
    for timeframe, ts_ms in (("1d", last_ms + 1), ("9999M", 0), ("9999w", 1_762_145_100_000)):
        (error,) = refused(raw(body | {"timeframe": timeframe, "ts_ms": ts_ms}), kind).errors
        assert error.path == "timeframe"
        assert "closes after 2099" in error.message


@pytest.mark.parametrize("name", ["model", "symbol", "timeframe", "ts_ms", "features"])
def test_a_field_that_is_missing_is_named(name: str) -> None:
    error = refused(raw([{key: value for key, value in OBSERVATION.items() if key != name}]))
    assert error.status_hint == 422
    assert name in error.errors[0].message
    assert error.errors[0].path == "[0]"


def test_an_unknown_field_is_refused() -> None:
    assert "probabilites" in refused(raw({**OBSERVATION, "probabilites": {}})).detail


def test_an_event_of_another_kind_is_refused() -> None:
    assert refused(raw({**OBSERVATION, "kind": "trade"})).errors[0].path == "kind"


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"{", b"nonsense", b"\xff\xfe", b"{'a': 1}", b"[1,]", b'{"model": "\xff"}',
        raw(OBSERVATION)[:-1], raw(OBSERVATION) + b"x", raw(OBSERVATION).decode().encode("utf-16"),
        b"\xef\xbb\xbf" + raw(OBSERVATION), raw(OBSERVATION).replace(b'"m"', b'"\\ud800"'),
    ],
)  # fmt: skip
def test_what_is_no_json_is_malformed(body: bytes) -> None:
    assert refused(body).status_hint == 400


@pytest.mark.parametrize("body", [b"null", b"3", b'"x"', b"[null]", b"[[]]", b"true"])
def test_json_of_another_shape_is_a_wrong_value(body: bytes) -> None:
    assert refused(body).status_hint == 422


def test_a_value_nested_too_deep_is_a_wrong_value() -> None:
    deep = b"[" * 5000 + b"]" * 5000
    assert refused(raw(OBSERVATION).replace(b"1.5", deep)).status_hint == 422
    refused(b"[" * 100_000)


def test_features_have_names_and_there_is_a_limit_to_them() -> None:
    assert refused(raw({**OBSERVATION, "features": {"": 1}})).errors[0].path.startswith("features.")
    assert refused(raw({**OBSERVATION, "features": {"x" * 129: 1}})).errors[0].path.startswith("features.")
    assert refused(raw({**OBSERVATION, "features": {"a\nb": 1}})).errors[0].path.startswith("features.")
    many = {f"f{i}": 1 for i in range(FEATURES_MAX)}
    assert parse(raw({**OBSERVATION, "features": many}), Observation)
    assert refused(raw({**OBSERVATION, "features": {**many, "more": 1}})).errors[0].path == "features"


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"ts_ms": 4_102_444_800_000}, "timeframe"),
        ({"features": {"a": 1, "b\n": 1}}, "features.'b\\n'"),
        ({"features": {f"f{i}": 1 for i in range(FEATURES_MAX + 1)}}, "features"),
        ({"model": "m\t"}, "model"),
        ({"symbol": "\x7f"}, "symbol"),
        ({"timeframe": "5x"}, "timeframe"),
        ({"candle": {"open": 2, "high": 1, "low": 1, "close": 1, "volume": 0}}, "candle.high"),
        ({"candle": {"open": 2, "high": 3, "low": 2.5, "close": 3, "volume": 0}}, "candle.low"),
    ],
)
def test_what_was_fine_before_does_not_excuse_what_comes_now(change: dict[str, Any], path: str) -> None:
    fine = {**OBSERVATION, "candle": {"open": 2, "high": 3, "low": 1, "close": 2, "volume": 0}}
    for features in (fine["features"], {f"f{i}": 1 for i in range(FEATURES_MAX)}):
        assert parse(raw({**fine, "features": features}), Observation)
    assert parse(raw([fine, fine]), Observation)
    error = refused(raw([fine, {**fine, **change}]))
    assert [e.path for e in error.errors] == [f"[1].{path}"]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"side": "up"}, "side"),
        ({"opened_ms": 3}, "opened_ms"),
        ({"entry_price": 0}, "entry_price"),
        ({"leverage": 0}, "leverage"),
        ({"size_ratio": -0.1}, "size_ratio"),
        ({"profit_ratio": None}, "profit_ratio"),
        ({"profit_ratio": math.nan}, "profit_ratio"),
        ({"shadow": "yes"}, "shadow"),
        ({"trade_id": 7}, "trade_id"),
        ({"trade_id": "7\0"}, "trade_id"),
        ({"exit_reason": "x" * 129}, "exit_reason"),
        ({"entry_probability": 1.5}, "entry_probability"),
    ],
)
def test_a_wrong_value_of_a_trade_is_named(change: dict[str, Any], path: str) -> None:
    assert refused(raw([{**TRADE, **change}]), Trade).errors[0].path == f"[0].{path}"


def test_a_trade_may_close_the_moment_it_opened() -> None:
    assert parse(raw({**TRADE, "opened_ms": 2}), Trade)


def test_open_and_close_lie_between_low_and_high() -> None:
    assert parse(raw({**CANDLE, "high": 2.0, "low": 2.0}), Candle)
    assert refused(raw({**CANDLE, "high": 1.5}), Candle).errors[0].path == "high"
    assert refused(raw({**CANDLE, "low": 2.5, "high": 3.0}), Candle).errors[0].path == "low"


def test_an_override_says_which_state() -> None:
    command = Command(id="1", action="set", ts_ms=0, model="m")
    assert [error.path for error in check(command)] == ["state"]
    assert check(Command(id="1", action="clear", ts_ms=0, model="m")) == []


def test_no_label_holds_a_control_character() -> None:
    bad = "a\0b"
    events: list[Event] = [
        Command(id=bad, action="clear", ts_ms=0, model="m"),
        Recalibrated(model="m", version=bad, reference_id="r"),
        ModelPromoted(model="m", model_version=bad, ts_ms=0),
    ]
    for event in events:
        assert len(check(event)) == 1


# -- canonical bytes -------------------------------------------------------------------------------------------------

labels = st.text(st.characters(codec="utf-8", exclude_characters="\x7f", min_codepoint=32), min_size=1, max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
prices = st.floats(1e-9, 1e9)
shares = st.floats(0, 1)
times = st.integers(0, TS_MS_MAX - 86_400_000)  # a candle of a day, too, closes within what is taken
timeframes = st.sampled_from(["1m", "5m", "1h", "1d"])


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


@st.composite
def ohlcv(draw: st.DrawFn) -> Ohlcv:
    low, open_, close, high = sorted(draw(st.lists(prices, min_size=4, max_size=4)))
    if draw(st.booleans()):
        open_, close = close, open_
    return Ohlcv(open=open_, high=high, low=low, close=close, volume=draw(st.floats(0, 1e12)))


@st.composite
def trades(draw: st.DrawFn) -> Trade:
    opened, closed = sorted(draw(st.tuples(times, times)))
    return Trade(
        model=draw(labels), symbol=draw(labels), timeframe=draw(timeframes), trade_id=draw(labels),
        side=draw(st.sampled_from(["long", "short"])), opened_ms=opened, closed_ms=closed, entry_price=draw(prices),
        exit_price=draw(prices), profit_ratio=draw(st.floats(-1e6, 1e6)), entry_probability=draw(optional(shares)),
        exit_reason=draw(optional(st.text(st.characters(codec="utf-8"), max_size=20))),
        leverage=draw(optional(st.floats(1, 100))), size_ratio=draw(optional(st.floats(0, 5))),
        signal_ts_ms=draw(optional(times)), shadow=draw(st.booleans()),
    )  # fmt: skip


observations = st.builds(
    Observation, model=labels, symbol=labels, timeframe=timeframes, ts_ms=times,
    features=st.dictionaries(labels, optional(numbers), max_size=5),
    probabilities=optional(
        st.builds(Probabilities, long=optional(shares), short=optional(shares), exit_long=optional(shares))
    ),
    taken=optional(st.builds(Taken, long=optional(st.booleans()))), candle=optional(ohlcv()),
)  # fmt: skip
candles = st.builds(
    lambda symbol, timeframe, ts_ms, c: Candle(
        symbol=symbol, timeframe=timeframe, ts_ms=ts_ms, **msgspec.structs.asdict(c)
    ),
    labels, timeframes, times, ohlcv(),
)  # fmt: skip
equities = st.builds(Equity, model=labels, ts_ms=times, equity=numbers, net_flow=optional(numbers))
commands = st.builds(
    Command, id=labels, action=st.sampled_from(["set", "clear"]), ts_ms=times, model=labels, symbol=optional(labels),
    timeframe=optional(timeframes), side=st.sampled_from([None, "long", "short"]),
    state=st.sampled_from(["ACTIVE", "REDUCING", "HALTED"]), until_ms=optional(times), actor=labels, reason=labels,
    key_id=optional(labels),
)  # fmt: skip
ticks = st.builds(Tick, model=labels, symbol=labels, timeframe=timeframes, ts_ms=times)
recalibrations = st.builds(
    Recalibrated, model=labels, version=labels, reference_id=labels, symbol=optional(labels),
    trained_until_ms=optional(times), ts_ms=optional(times),
)  # fmt: skip
promotions = st.builds(ModelPromoted, model=labels, model_version=labels, ts_ms=times)
reconfigurations = st.builds(
    Reconfigured, model=labels, symbol=labels, timeframe=timeframes, policy_id=labels,
    served_version=st.integers(0, 2**40),
)  # fmt: skip
posted = st.one_of(observations, trades(), candles, equities)
events = st.one_of(posted, commands, ticks, recalibrations, promotions, reconfigurations)


@given(events)
def test_decode_is_the_inverse_of_encode(event: AnyEvent) -> None:
    again = decode(encode(event))
    assert again == event
    assert type(again) is type(event)
    assert encode(again) == encode(event)


@given(posted)
def test_canonical_bytes_are_accepted_from_outside(event: AnyEvent) -> None:
    assert parse(encode(event), type(event)) == [event]
    assert parse(encode(event) + b"\n", type(event), ndjson=True) == [event]
    assert parse(b"[" + encode(event) + b"]", type(event)) == [event]


@given(observations, st.randoms())
def test_the_same_content_has_the_same_bytes_however_it_was_written(event: Observation, random: Any) -> None:
    body = json.loads(encode(event))
    names = list(body["features"])
    random.shuffle(names)
    body["features"] = {name: body["features"][name] for name in names}
    fields = list(body)
    random.shuffle(fields)
    written = json.dumps({name: body[name] for name in fields}, indent=1).encode()
    assert [encode(found) for found in parse(written, Observation)] == [encode(event)]


def test_canonical_means_declared_order_without_defaults_features_by_name() -> None:
    (event,) = parse(raw({"features": {"b": 2, "a": 1.50, "c": None}, "probabilities": None, "ts_ms": 0, "timeframe":
                          "5m", "symbol": "s", "model": "m"}), Observation)  # fmt: skip
    assert encode(event) == (
        b'{"kind":"observation","model":"m","symbol":"s","timeframe":"5m","ts_ms":0,'
        b'"features":{"a":1.5,"b":2.0,"c":null}}'
    )


def test_false_and_not_given_are_the_same_content() -> None:
    (plain,) = parse(raw(TRADE), Trade)
    (said,) = parse(raw({**TRADE, "shadow": False, "leverage": None}), Trade)
    assert encode(plain) == encode(said)


@given(st.one_of(st.binary(max_size=60), events.map(encode)), st.data())
def test_what_we_did_not_write_is_corrupt(whole: bytes, data: st.DataObject) -> None:
    cut = whole[: data.draw(st.integers(0, max(0, len(whole) - 1)))]
    with pytest.raises(CorruptionError):
        decode(cut)


# -- hostile bytes ---------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=15,
)
KINDS = st.sampled_from([Observation, Trade, Candle, Equity])


def survives(body: bytes, kind: type[Event], ndjson: bool) -> None:
    try:
        found = parse(body, kind, ndjson=ndjson)
    except CallerError as error:
        assert error.status_hint in (400, 422)
        assert error.errors
        json.dumps([error.detail, [tuple(e) for e in error.errors]]).encode()
        error.detail.encode()
    else:
        for event in found:
            assert type(event) is kind
            assert decode(encode(event)) == event  # type: ignore[arg-type]


@given(st.binary(max_size=200), KINDS, st.booleans())
@example(b"", Observation, False)
@example(b'{"\\ud800": 1}', Observation, False)
def test_any_bytes_are_events_or_a_callers_error(body: bytes, kind: type[Event], ndjson: bool) -> None:
    survives(body, kind, ndjson)


@given(json_values, KINDS, st.booleans())
def test_any_json_is_events_or_a_callers_error(value: Any, kind: type[Event], ndjson: bool) -> None:
    survives(json.dumps(value).encode(), kind, ndjson)


@given(st.sampled_from([(OBSERVATION, Observation), (TRADE, Trade), (CANDLE, Candle)]), st.data())
def test_a_good_body_with_one_value_changed_is_an_event_or_a_callers_error(
    good: tuple[dict[str, Any], type[Event]], data: st.DataObject
) -> None:
    body, kind = good
    name = data.draw(st.sampled_from(sorted(body)) | st.text(max_size=5))
    changed = {**body, name: data.draw(json_values)}
    if data.draw(st.booleans()) and "features" in changed:
        changed["features"] = {data.draw(st.text(max_size=5)): data.draw(json_values)}
    survives(json.dumps([body, changed]).encode(), kind, False)


@given(st.sampled_from([(OBSERVATION, Observation), (TRADE, Trade), (CANDLE, Candle)]), st.data())
def test_a_good_body_with_some_bytes_changed_is_an_event_or_a_callers_error(
    good: tuple[dict[str, Any], type[Event]], data: st.DataObject
) -> None:
    body = bytearray(raw([good[0]]))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    survives(bytes(body), good[1], data.draw(st.booleans()))
