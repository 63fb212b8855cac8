"""The page in a real browser: what a trader sees, clicks and types, with scripts and without, by day and by night.

Chromium comes from the system (`apt install chromium`; `.ci/run` does); Playwright drives it and downloads nothing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from regime_service.keys import create, revoke
from regime_service.testing import Served

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]

AXE = Path(__file__).parent / "axe" / "axe.min.js"
STEP_MS = 300_000
START_MS = 1_740_000_000_000 // STEP_MS * STEP_MS
STREAM = {"model": "demo", "symbol": "BTC/USDT:USDT", "timeframe": "5m"}
ADDRESS = "/stream?model=demo&symbol=BTC%2FUSDT%3AUSDT&timeframe=5m"
CONFIG = """
clock = "event"
warmup_observations = 50
[[detectors]]
kind = "calibrated"
"""


@pytest.fixture
def browser(need: Callable[[object, str], None]) -> Iterator[Browser]:
    """A browser of this test alone: while it lives, Playwright's event loop runs in this thread."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    need(program, "there is no chromium here: apt install chromium")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-quic", "--disable-background-networking"]
        )
        yield found
        found.close()


class Watched:
    """A window of the browser; what it asks for and complains of is put down."""

    def __init__(self, browser: Browser, served: Served, **options: Any) -> None:
        self.base = f"http://{served.address}"
        self.context: BrowserContext = browser.new_context(base_url=self.base, **options)
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.context.on("request", lambda request: self.asked.append(request.url))
        self.page = self.window()

    def window(self) -> Page:
        page = self.context.new_page()
        page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        return page

    def see(self, path: str) -> Page:
        self.page.goto(path)
        self.page.wait_for_load_state("load")
        return self.page

    def violations(self) -> list[str]:
        """What axe-core finds wrong for people who see, hear or move differently."""
        self.page.evaluate(AXE.read_text("utf-8"))
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        return [f"{v['id']}: {v['nodes'][0]['html'][:120]} {v['nodes'][0]['failureSummary'][:200]}" for v in found]

    def check(self) -> None:
        """Nothing was complained of, and nobody else was asked for anything."""
        assert self.complaints == []
        assert [url for url in self.asked if not url.startswith((self.base, "data:"))] == []


@pytest.fixture
def watch(browser: Browser) -> Iterator[Callable[..., Watched]]:
    """`watch(served, viewport={...}, color_scheme="dark")` opens a window; all are closed afterwards."""
    opened: list[Watched] = []

    def open_(served: Served, **options: Any) -> Watched:
        opened.append(Watched(browser, served, **{"viewport": {"width": 1100, "height": 800}, **options}))
        return opened[-1]

    yield open_
    for watched in opened:
        watched.context.close()


def observation(i: int, **changes: Any) -> dict[str, Any]:
    price = 60_000 + 500 * ((i * 7919) % 11) - i * 3
    far = 4.0 if i > 260 else 0.0
    features = {f"f{k}": ((i * (k + 3) * 2654435761) % 1000) / 500 - 1 + far * (k == 1) for k in range(4)}
    ohlcv = {"open": price, "high": price + 50, "low": price - 50, "close": price + 10, "volume": 1.0}
    return {**STREAM, "ts_ms": START_MS + i * STEP_MS, "features": features, "candle": ohlcv,
            "probabilities": {"long": 0.7, "short": 0.2}, **changes}  # fmt: skip


def trade(i: int) -> dict[str, Any]:
    closed_ms = START_MS + (i + 4) * STEP_MS
    return {**STREAM, "trade_id": str(i), "side": "long" if i % 2 else "short", "opened_ms": closed_ms - STEP_MS,
            "closed_ms": closed_ms, "entry_price": 100.0, "exit_price": 101.0,
            "profit_ratio": 0.01 if i % 3 else -0.012, "entry_probability": 0.75 + (i % 20) / 100}  # fmt: skip


def fill(served: Served) -> None:
    """A stream of a day with a reference, trades and a feature that moved; another one that has only just begun."""
    rows = ["ts_ms,f0,f1,f2,f3"]
    for i in range(-1500, 0):
        rows.append(f"{START_MS + i * STEP_MS}," + ",".join(str(v) for v in observation(i)["features"].values()))
    put = served.put("/v1/models/demo/references/v1", "\n".join(rows).encode(), "text/csv")
    assert put.status == 200, put.body
    for start in range(0, 300, 100):
        assert served.post("/v1/observations", [observation(i) for i in range(start, start + 100)]).status == 200
    assert served.post("/v1/trades", [trade(i) for i in range(140)]).status == 200
    assert served.post("/v1/observations", [observation(299, model="other", symbol="ETH/USDT:USDT")]).status == 200


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One service for all tests that do not end it: filling it takes longer than looking at it."""
    service = Served(tmp_path_factory.mktemp("page"), CONFIG)
    fill(service)
    yield service
    service.kill()


@pytest.fixture
def served(filled: Served) -> Iterator[Served]:
    """The same, without overrides before and after."""
    yield filled
    for word in filled.get("/v1/explain", **STREAM).json()["overrides"]:
        assert filled.request("DELETE", f"/v1/overrides/{word['id']}").status == 200


def operator(served: Served, **changes: Any) -> None:
    word = {"model": "demo", "state": "REDUCING", "actor": "bob", "reason": "maintenance", **changes}
    assert served.post("/v1/overrides", word).status == 200


# --- looking ---


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1100, 390])
def test_anybody_can_read_it_by_day_and_night_on_a_desk_and_a_phone(
    served: Served, watch: Callable[..., Watched], scheme: str, width: int
) -> None:
    operator(served, side="long")
    seen = watch(served, color_scheme=scheme, viewport={"width": width, "height": 800})
    for path in ("/", ADDRESS):
        page = seen.see(path)
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "it must not be wider than the screen"
        assert seen.violations() == []
    seen.check()


def test_paused_streams_stand_first_with_why_since_when_and_what_lifts_it(
    served: Served, watch: Callable[..., Watched]
) -> None:
    seen = watch(served)
    page = seen.see("/")
    expect(page.locator("h1")).to_have_text("1 of 2 streams is paused")
    card = page.locator(".card").first
    expect(card.locator("h2")).to_contain_text("ETH/USDT:USDT")
    for said in ("paused", "warm-up", "What lifts it"):
        expect(card).to_contain_text(said)
    expect(card).to_contain_text(re.compile(r"since 2025-02-\d\d \d\d:\d\d"))
    expect(page).to_have_title("1 paused · regimegate")
    seen.check()


def test_what_changes_is_shown_without_loading_the_page_again(served: Served, watch: Callable[..., Watched]) -> None:
    seen = watch(served)
    page = seen.see("/")
    page.evaluate("window.same = true")
    operator(served)
    expect(page.locator("h1")).to_have_text("All 2 streams are paused", timeout=15_000)
    expect(page.locator("#live")).to_contain_text("maintenance")
    expect(page).to_have_title("2 paused · regimegate")
    assert page.evaluate("window.same") is True
    seen.check()


def test_when_the_service_is_gone_it_is_said_and_what_is_seen_is_called_old(
    serve: Callable[..., Served], watch: Callable[..., Watched]
) -> None:
    served = serve(CONFIG)
    assert served.post("/v1/observations", [observation(1)]).status == 200
    seen = watch(served)
    page = seen.see("/")
    served.kill()
    expect(page.locator("#status")).to_contain_text("No connection since", timeout=20_000)
    expect(page.locator("#status")).to_contain_text("what you see is old")


def test_the_pictures_are_drawn_and_can_be_looked_into(served: Served, watch: Callable[..., Watched]) -> None:
    operator(served, side="long")
    seen = watch(served)
    page = seen.see(ADDRESS)
    expect(page.locator(".chart-price .u-over")).to_be_visible()
    expect(page.locator("#live-price svg .band.REDUCING").first).to_be_attached()
    heat = page.locator("#live-drift svg text.tick.blamed, #live-drift svg text.tick")
    expect(heat.filter(has_text="f1").first).to_be_attached()
    expect(page.locator("#live-drift svg .h7, #live-drift svg .h6").first).to_be_attached()
    expect(page.locator("#live-claims svg .mark").first).to_be_attached()
    expect(page.locator("#live-worth")).to_contain_text("long")
    box = page.locator(".chart-price .u-over").bounding_box()
    assert box is not None
    before = page.locator(".chart-price .u-legend .u-value").first.inner_text()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
    expect(page.locator(".chart-price .u-legend .u-value").first).not_to_have_text(before)
    seen.check()


def test_without_scripts_everything_can_be_read_and_done(served: Served, watch: Callable[..., Watched]) -> None:
    seen = watch(served, java_script_enabled=False)
    page = seen.see("/")
    expect(page.locator("h1")).to_have_text("1 of 2 streams is paused")
    page.get_by_role("link", name="BTC/USDT:USDT").click()
    expect(page.locator(".chart-price svg path.line")).to_be_visible()
    expect(page.locator("#live-drift svg")).to_be_visible()
    page.get_by_label("Pause: no new entries").check()
    page.get_by_label("Your name").fill("Ana")
    page.get_by_label("Reason").fill("news at four")
    page.get_by_role("button", name="Show what this will do").click()
    expect(page.locator(".confirm")).to_contain_text("This pauses both sides")
    page.get_by_role("button", name="Yes, pause").click()
    expect(page.locator(".overrides")).to_contain_text("news at four")
    seen.check()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `regime replay` makes of the same stream, from the bot's own files."""
    folder = tmp_path_factory.mktemp("replay")
    for name, rows in (("train", range(-1500, 0)), ("features", range(300))):
        lines = ["ts_ms,open,high,low,close,volume,prob_long,prob_short,f0,f1,f2,f3"]
        for seen in map(observation, rows):
            values = (*seen["candle"].values(), *seen["probabilities"].values(), *seen["features"].values())
            lines.append(",".join(map(str, (seen["ts_ms"], *values))))
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    names = ("trade_id", "side", "opened_ms", "closed_ms", "entry_price", "exit_price", "profit_ratio", "entry_prob")
    lines = [",".join(names)]
    for closed in map(trade, range(140)):
        closed["entry_prob"] = closed.pop("entry_probability")
        lines.append(",".join(str(closed[name]) for name in names))
    (folder / "trades.csv").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "regime_service.cli", "replay", "--reference", "train.csv", "--features",
               "features.csv", "--trades", "trades.csv", "--model", "demo", "--out", "report"]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "report" / "report.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1100, 390])
def test_anybody_can_read_the_report_of_a_replay(
    report: Path, served: Served, watch: Callable[..., Watched], scheme: str, width: int
) -> None:
    seen = watch(served, color_scheme=scheme, viewport={"width": width, "height": 800})
    page = seen.see(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "it must not be wider than the screen"
    assert seen.violations() == []
    assert seen.complaints == [] and seen.asked == [report.as_uri()]
    # However narrow the screen: what is seen of the heat map first is its newest column, and the names beside it.
    box = page.locator(".newest").bounding_box()
    for words in ("now", "f1"):
        place = page.locator(".newest text", has_text=words).first.bounding_box()
        assert box is not None and place is not None
        assert box["x"] <= place["x"] and place["x"] + place["width"] <= box["x"] + box["width"]
    ink = page.evaluate("getComputedStyle(document.querySelector('.picture .line')).stroke")
    assert ink == {"light": "rgb(31, 41, 51)", "dark": "rgb(230, 235, 240)"}[scheme]


# --- commanding ---


def test_a_pause_and_its_end_by_keyboard_alone(served: Served, watch: Callable[..., Watched]) -> None:
    seen = watch(served)
    page = seen.see(ADDRESS)
    expect(page.locator(".chart-price .u-over")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    _tab_to(page, "input[name=state]")
    page.keyboard.press("Space")
    for name, typed in (
        ("side", "long"),
        ("scope", ""),
        ("hours", ""),
        ("actor", "Ana"),
        ("reason", "exchange is down"),
    ):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.name") == name
        page.keyboard.type(typed)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".confirm")).to_contain_text("This pauses long of BTC/USDT:USDT 5m (demo)")
    assert seen.violations() == []
    _tab_to(page, "button.primary")
    page.keyboard.press("Enter")
    expect(page.locator(".done")).to_contain_text("in force")
    expect(page.locator(".sides")).to_contain_text("exchange is down")
    _tab_to(page, ".overrides button")
    page.keyboard.press("Enter")
    expect(page.locator(".confirm")).to_contain_text("This ends the REDUCING that Ana gave")
    _tab_to(page, "button.primary")
    page.keyboard.press("Enter")
    expect(page.locator("#live-overrides")).to_contain_text("No override is in force")
    seen.check()


def _tab_to(page: Page, selector: str, most: int = 60) -> None:
    for _ in range(most):
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{selector} cannot be reached with the Tab key")


def test_a_halt_takes_a_second_step(serve: Callable[..., Served], watch: Callable[..., Watched]) -> None:
    # A service of its own: after a halt a stream waits for the next observation.
    served = serve(CONFIG)
    assert served.post("/v1/observations", [observation(i) for i in range(60)]).status == 200
    seen = watch(served)
    page = seen.see(ADDRESS)
    page.get_by_label("Halt: place no order").check()
    page.get_by_label("How long").select_option("until somebody ends it")
    page.get_by_label("Your name").fill("Ana")
    page.get_by_label("Reason").fill("runaway orders")
    page.get_by_role("button", name="Show what this will do").click()
    expect(page.locator(".confirm")).to_contain_text("the bot places no order of its own any more")
    assert seen.violations() == []
    page.get_by_role("button", name="Yes, halt").click()
    # The browser itself asks for the word; nothing was sent.
    expect(page.locator("#word")).to_be_visible()
    thresholds = served.get("/v1/thresholds", **STREAM).json()["thresholds"][0]
    assert thresholds["sides"]["long"]["state"] != "HALTED"
    page.locator("#word").fill("HALT")
    page.get_by_role("button", name="Yes, halt").click()
    expect(page.locator(".sides")).to_contain_text("halted by an operator")
    thresholds = served.get("/v1/thresholds", **STREAM).json()["thresholds"][0]
    assert {side["state"] for side in thresholds["sides"].values()} == {"HALTED"}
    seen.check()


def test_focus_and_what_was_opened_survive_an_update(served: Served, watch: Callable[..., Watched]) -> None:
    seen = watch(served)
    page = seen.see("/")
    link = page.locator(".card h2 a").first
    link.focus()
    operator(served, model="demo", side="short", reason="first")
    expect(page.locator("#live")).to_contain_text("first", timeout=15_000)
    focused = page.evaluate("document.activeElement.getAttribute('href')")
    assert focused is not None and "ETH" in focused
    seen.check()


def test_with_keys_one_logs_in_and_the_page_notices_when_the_key_is_gone(
    serve: Callable[..., Served], tmp_path: Path, watch: Callable[..., Watched]
) -> None:
    served = serve(CONFIG)
    assert served.post("/v1/observations", [observation(i) for i in range(60)]).status == 200
    keys = tmp_path / "store.keys.json"
    key, token = create(keys, name="ana", scopes=["admin"])
    seen = watch(served)
    page = seen.window()
    page.wait_for_timeout(2_500)  # The service looks at its keys once a second.
    page.goto(ADDRESS)
    expect(page.locator("h1")).to_have_text("Log in")
    page.get_by_label("Key").fill("rgk_aaaaaaaa_" + "x" * 43)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator(".alarm")).to_contain_text("This is no key of this service")
    page.get_by_label("Key").fill(token)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("h1")).to_contain_text("BTC/USDT:USDT")
    (cookie,) = seen.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert page.evaluate("document.cookie") == ""
    page.get_by_label("Pause: no new entries").check()
    page.get_by_label("Your name").fill("Ana")
    page.get_by_label("Reason").fill("holiday")
    page.get_by_role("button", name="Show what this will do").click()
    page.get_by_role("button", name="Yes, pause").click()
    expect(page.locator(".overrides")).to_contain_text(f"key {key.id}")
    # What was refused on the way (401 for the wrong key) the console may mention; from here on nothing may go wrong.
    revoke(keys, key.id)
    expect(page.locator("#status")).to_contain_text("You are logged out", timeout=20_000)
    page.reload()
    expect(page.locator("h1")).to_have_text("Log in")


def test_hostile_names_do_nothing(serve: Callable[..., Served], watch: Callable[..., Watched]) -> None:
    served = serve('clock = "event"\n')
    nasty = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>'&ü"
    stream = {"model": nasty, "symbol": nasty, "timeframe": "5m"}
    rows = [observation(i, **stream, features={nasty: float(i), "b": 1.0}) for i in range(60)]
    assert served.post("/v1/observations", rows).status == 200
    operator(served, model=nasty, actor=nasty, reason=nasty)
    seen = watch(served)
    page = seen.see("/")
    page.get_by_role("link", name=nasty[:20]).first.click()
    expect(page.locator(".overrides")).to_contain_text(nasty)
    page.wait_for_timeout(4_000)  # An update goes another way into the page.
    assert page.title() != "owned"
    assert page.locator("main img").count() == 0
    seen.check()
