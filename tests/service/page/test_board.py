"""What the page shows, and that nothing from outside is taken for anything but text."""

from __future__ import annotations

import doctest
import html
import importlib
import json
import pkgutil
import re
import time
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
import pytest

import regime_service.page
from regime.events import SIDES, Recalibrated, StreamKey
from regime.reference import Reference
from regime_service.alerts.words import Words
from regime_service.page.routes import ASSETS
from regime_service.page.views import ROWS_MAX

STEP_MS = 300_000
STREAM = {"model": "m", "symbol": "BTC/USDT:USDT", "timeframe": "5m"}


def text_of(page: str) -> str:
    """The words of a page, as somebody reads them."""
    plain = re.sub(r"<script.*?</script>|<[^>]*>", " ", page, flags=re.S)
    return " ".join(html.unescape(plain).split())


# --- from outside ---


ODD_SYMBOLS = ("BTC/USDT:USDT", "BTC/USDT", "BTC/USD:BTC-251226", "a b&c=d#e?f%2F+g", "<i>\u00fc\U0001f402")


@pytest.mark.parametrize("public_url", ["https://regime.example.org", "https://regime.example.org/"])
@pytest.mark.parametrize("symbol", ODD_SYMBOLS)
def test_the_link_in_an_alert_opens_the_page_of_its_stream(
    make_site: Callable[..., Any], symbol: str, public_url: str
) -> None:
    site = make_site()
    stream = {"model": "m/1 & co", "symbol": symbol, "timeframe": "5m"}
    site.warm(**stream)
    before = site.service.board.now.decisions[StreamKey(**stream)]
    site.send("observations", [site.observation(1, features={"f1": None, "f2": 1.0}, **stream)])
    after = site.service.board.now.decisions[StreamKey(**stream)]
    (alert,) = Words("e", public_url).alerts_of(before, after, after.as_of_ms)
    assert alert.link.isascii() and alert.link.startswith("https://regime.example.org/stream?")
    link = alert.link.removeprefix("https://regime.example.org")
    opened = site.get(link)
    assert opened.status_code == 200
    assert all(said in text_of(opened.text) for said in (symbol, "m/1 & co", "non-finite"))
    # Whoever has to log in first comes to the same page.
    token = site.key("read")
    asked = site.get(link)
    assert asked.status_code == 401
    let_in = site.form("/session", {"next": html.unescape(re.findall(r'name="next" value="(.*?)"', asked.text)[0]),
                                    "key": token})  # fmt: skip
    there = text_of(site.get(let_in.headers["location"]).text)
    assert all(said in there for said in (symbol, "m/1 & co", "non-finite"))


def test_the_link_of_a_stream_that_is_gone_says_so(site: Any) -> None:
    """The control: the page above could have been any page."""
    assert site.stream(symbol="BTC/USDT").status_code == 404


# --- the board ---


def test_an_empty_service_says_how_streams_come_into_being(make_site: Callable[..., Any]) -> None:
    assert "No stream yet" in make_site().get("/").text


def test_the_headline_says_how_many_are_paused_and_they_come_first(site: Any) -> None:
    assert "Long and short trade" in text_of(site.get("/").text)
    site.warm(symbol="ETH/USDT:USDT")
    assert "All 2 streams trade" in text_of(site.get("/").text)
    site.send("observations", [site.observation(0, symbol="SOL/USDT:USDT")])
    page = site.get("/").text
    words = text_of(page)
    assert "1 of 3 streams is paused" in words and "<title>1 paused · regimegate</title>" in page
    assert words.index("SOL/USDT:USDT") < words.index("BTC/USDT:USDT")
    assert "long and short: paused since 2025-11-03 05:05 (just now)" in words
    assert "warm-up" in words and "What lifts it" in words


def test_a_stream_that_hears_nothing_is_said_to_be_overdue_and_then_stale(site: Any) -> None:
    assert "overdue" not in site.get("/").text
    site.clock.ms += 2 * STEP_MS
    assert 'class="overdue"' in site.get("/").text
    site.clock.ms += 3 * STEP_MS
    time.sleep(1.0)  # The writer looks at the clock four times a second.
    words = text_of(site.get("/").text)
    assert "stale" in words and "Long and short are paused" in words


def test_shadow_mode_is_named_and_shows_what_would_be_said(make_site: Callable[..., Any]) -> None:
    site = make_site(mode="shadow", rules=[{"kind": "drawdown", "options": {"limit": 0.1}}])
    site.warm()
    ts_ms = site.clock.ms - 60_000
    site.send("equity", [{"model": "m", "ts_ms": ts_ms + i, "equity": e} for i, e in enumerate((100.0, 85.0))])
    words = text_of(site.get("/").text)
    assert "shadow mode: bots are told to trade" in words and "would be paused" in words
    assert "Shadow mode: what the rules would say" in text_of(site.stream().text)


def test_many_streams_are_paged_and_can_be_looked_for(make_site: Callable[..., Any]) -> None:
    site = make_site()
    names = [f"C{i:03}/USDT" for i in range(ROWS_MAX + 20)]
    site.send("observations", [site.observation(c, symbol=name) for name in names for c in (-2, -1, 0)])
    first, second = site.get("/").text, site.get("/?page=2").text
    assert first.count('scope="row"') == ROWS_MAX and second.count('scope="row"') == 20
    assert "Page 1 of 2" in first and "Page 2 of 2" in second
    found = site.get("/?name=c011").text
    assert found.count('scope="row"') == 1 and "C011/USDT" in found
    assert "No stream has “zzz” in its name" in site.get("/?name=zzz").text
    for wrong in ("/?page=0", "/?page=99999999999999999999", "/?page=x", "/?page=-1"):
        assert site.get(wrong).status_code == 200


def test_when_nothing_can_be_written_the_page_still_says_why(site: Any) -> None:
    site.service._runner._failed = "the disk is full"
    words = text_of(site.get("/").text)
    assert "The service cannot answer its bots: the disk is full" in words and "BTC/USDT:USDT" in words
    assert "the disk is full" in site.stream().text
    answer = site.form("/page/override", {**site.override(), "id": "x"})
    assert answer.status_code == 503 and "the disk is full" in answer.text


def test_what_did_not_change_is_not_sent_again(site: Any) -> None:
    for path in ("/", "/stream?" + urlencode({"model": "m", "symbol": "BTC/USDT:USDT", "timeframe": "5m"})):
        etag = site.get(path).headers["etag"]
        again = site.get(path, headers={"If-None-Match": etag})
        assert (again.status_code, again.content) == (304, b"")
    etag = site.get("/").headers["etag"]
    site.send("observations", [site.observation(0, symbol="ETH/USDT:USDT")])
    assert site.get("/", headers={"If-None-Match": etag}).status_code == 200


# --- one stream ---


def test_a_stream_nobody_knows_is_not_found_and_its_name_not_repeated(site: Any) -> None:
    page = site.get("/stream?model=%3Cb%3E&symbol=s&timeframe=5m")
    assert page.status_code == 404 and "No such stream" in page.text and "<b>" not in page.text.partition("<main")[2]
    assert site.get("/stream").status_code == 404


def test_the_chart_holds_every_candle_of_a_day_and_the_states(site: Any) -> None:
    site.warm(288)
    page = site.stream(candles="288").text
    chart = json.loads(re.search(r'class="chart-data">(.*?)</script>', page)[1])  # type: ignore[index]
    assert len(chart["times"]) == len(chart["closes"]) == 288
    assert chart["closes"][-1] == 100.0 and chart["closes"][-2] == 106.0
    assert chart["times"][-1] == (site.clock.ms // STEP_MS) * 300
    assert chart["spans"]["long"][-1][2:] == ["ACTIVE", 0.8, 0.75]
    assert 'class="picture"' in page and "Price (close of BTC/USDT:USDT)" in page


def test_the_trail_is_paged_and_says_what_changed(site: Any) -> None:
    for i in range(40):
        site.form("/page/override", {**site.override(reason=f"reason {i}"), "id": f"o{i}"})
    page = site.stream().text
    rows = page.partition('id="trail"')[2]
    versions = [int(v) for v in re.findall(r'<td class="n">(\d+)</td></tr>', rows)]
    assert versions == sorted(versions, reverse=True) and len(versions) == 25
    assert "reason 39" in rows and "reason 3<" not in rows
    older = html.unescape(re.search(r'href="([^"]*)#trail">Older', page)[1])  # type: ignore[index]
    below = site.get(older).text
    more = [int(v) for v in re.findall(r'<td class="n">(\d+)</td></tr>', below.partition('id="trail"')[2])]
    assert more[0] == versions[-1] - 1
    assert "Newer" in below and "Newer" not in page
    assert "paused" in text_of(below)


def test_without_trades_and_reference_it_says_what_is_missing(site: Any) -> None:
    words = text_of(site.stream().text)
    assert "No picture of drift: there is no reference" in words
    assert "No detector is at work" in words and "The thresholds did not move: 0.80 to enter" in words


# --- everything from outside is text ---

NASTY = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>{{7*7}}</title>ü☠\u202e"


class Reader(HTMLParser):
    """Finds what a page would run, and what it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.handlers: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        if tag == "script" and found.get("type") != "application/json":
            self.scripts.append(str(found.get("src")))
        self.handlers += [name for name, _ in attrs if name.startswith("on") or name == "style"]
        self.addresses += [v for k, v in attrs if v and k in ("src", "href", "action", "formaction", "xlink:href")]


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def test_names_reasons_and_actors_are_text_wherever_they_stand(make_site: Callable[..., Any]) -> None:
    site = make_site(rules=[{"kind": "drawdown", "options": {"limit": 0.1}}])
    stream = {"model": NASTY[:60], "symbol": NASTY[20:110], "timeframe": "5m"}
    features = {NASTY: 1.0, "</script><script>alert(3)</script>": 2.0}
    site.send("observations", [site.observation(c, **stream, features=features) for c in (-3, -2, -1, 0)])
    address = "/stream?" + urlencode(stream)
    site.warm()
    token = site.token()
    fields = {**stream, "csrf": token, "state": "REDUCING", "side": "", "scope": "stream", "hours": "",
              "actor": NASTY[:100], "reason": NASTY * 3}  # fmt: skip
    review = site.form("/page/override/review", fields)
    assert review.status_code == 200
    site.form("/page/override", site.hidden(review.text))
    (word,) = site.overrides()
    assert word.reason == NASTY * 3 and word.model == NASTY[:60]
    pages = {
        "board": site.get("/").text,
        "stream": site.get(address).text,
        "find": site.get("/?" + urlencode({"name": NASTY})).text,
        "review": review.text,
        "edit": site.form("/page/override/review", {**fields, "state": ""}).text,
        "end": site.form("/page/end/review", {"csrf": token, "id": word.id, "back": address}).text,
        "wrong": site.get("/page/" + quote(NASTY)).text,
    }
    for name, page in pages.items():
        found = read(page)
        assert "alert(1)" not in "".join(found.scripts) and all(s.startswith("/page/") for s in found.scripts), name
        assert found.handlers == [] and "img" not in found.tags, name
        assert all(a.startswith(("/", "#")) for a in found.addresses), name
        assert len(found.scripts) == 2, name
    # It is shown, though, for somebody who has to know what it is called.
    assert html.escape(NASTY[:60], quote=False).split("&")[0] in pages["stream"]
    assert html.escape(NASTY[:20], quote=False) in pages["board"]


def test_features_are_text_in_the_heat_map_and_in_the_evidence() -> None:
    from regime_service.drawing.market import heat
    from regime_service.drawing.shown import Blamed, Drift

    drift = Drift((NASTY, "</svg>"), (0, STEP_MS, 2 * STEP_MS), ((0.5, 3.0), (float("nan"), 1.2)), 2)
    picture = str(heat(drift, Blamed({NASTY: 0}, (STEP_MS, 0, STEP_MS))))
    assert "<script" not in picture and "<img" not in picture and picture.count("</svg>") == 1


def test_data_for_the_chart_cannot_end_their_element() -> None:
    from regime_service.page.routes import _json

    assert "<" not in _json({"a": "</script><script>"}) and json.loads(_json({"a": "</"})) == {"a": "</"}


# --- what is sent ---


def test_everything_a_browser_loads_for_a_page_is_at_most_60_kilobytes(make_site: Callable[..., Any]) -> None:
    """Of a stream whose every picture is as full as it gets."""
    site = make_site()
    rng = np.random.default_rng(5)
    names = [f"feature_with_a_long_name_{i}" for i in range(60)]
    reference = Reference(names, rng.normal(size=(4_000, 60)))
    began = Recalibrated(**STREAM, version="v1", reference_id=reference.reference_id)
    site._runner.run(site.service.ingest([began], references={reference.reference_id: reference.to_bytes()}))
    site.send("observations", [
        site.observation(i - 2015, features=dict(zip(names, rng.normal(size=60).cumsum().tolist(), strict=True)))
        for i in range(2016)
    ])  # fmt: skip
    ended_ms = site.observation(0)["ts_ms"]
    site.send("trades", [
        {**STREAM, "trade_id": str(i), "side": SIDES[i % 2], "opened_ms": (at := ended_ms - 400_000 * (1_000 - i)),
         "closed_ms": at + int(rng.integers(1, 300_000)), "entry_price": 100.0, "exit_price": 101.0,
         "profit_ratio": float(rng.normal() / 100), "entry_probability": float(rng.random()), "shadow": i % 3 == 0}
        for i in range(1_000)
    ])  # fmt: skip
    sent = 0
    page = site.stream(candles="2016")
    for full in ("Price", "Distance", "Claimed", "Win rate", "What the guard"):
        assert f'aria-label="{full}' in page.text, full
    wanted = {a.partition("?")[0] for a in read(page.text).addresses if a.startswith("/page/") and "." in a}
    wanted |= set(re.findall(r'<link [^>]*href="(/page/[^"?]*)', page.text))
    assert len(wanted) == 6
    for path in wanted:
        asset = site.get(path)
        assert asset.status_code == 200 and "immutable" in asset.headers["cache-control"]
        sent += int(asset.headers["content-length"])
    sent += int(page.headers["content-length"])
    assert sent <= 60 * 1024, f"{sent:,} bytes, the page {page.headers['content-length']} of them"
    # httpx has unpacked it; whoever cannot is sent it as it is.
    plain = site.get("/page/page.js", headers={"Accept-Encoding": "identity"})
    assert page.headers["content-encoding"] == "gzip" and "content-encoding" not in plain.headers
    assert plain.content == site.get("/page/page.js").content


def test_assets_are_those_of_the_list_and_nothing_else_can_be_read(site: Any) -> None:
    for name in ASSETS:
        assert site.get(f"/page/{name}").status_code == 200
    for path in ("/page/", "/page/../routes.py", "/page/%2e%2e/routes.py", "/page/routes.py", "/page//etc/passwd"):
        assert site.get(path).status_code == 404
    assert "MIT License" in site.get("/page/uPlot.LICENSE.txt").text


def test_head_and_other_methods(site: Any) -> None:
    assert site.request("DELETE", "/").status_code == 405
    for path in ("/", "/stream"):
        refused = site.request("POST", path)
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET")


MODULES = sorted(m.name for m in pkgutil.iter_modules(regime_service.page.__path__, "regime_service.page."))


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_on_event_time_a_service_without_events_names_no_time(make_site: Callable[..., Any]) -> None:
    assert "1970" not in make_site(clock="event").get("/").text
