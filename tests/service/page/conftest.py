"""The real service in this process, with a real store and keys, and a browser without scripts: cookies and forms."""

from __future__ import annotations

import asyncio
import html
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import msgspec
import pytest

from regime.config import EngineConfig, from_mapping
from regime_service.app import Service
from regime_service.keys import create
from regime_service.settings import Settings, StoreSection
from regime_service.testing import HandClock

STEP_MS = 300_000
NOW_MS = 1_762_146_310_000
STREAM = {"model": "m", "symbol": "BTC/USDT:USDT", "timeframe": "5m"}


class Site:
    """The service and what a browser asks of it. `cookies` is the browser's jar."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.keys_path = folder / "store.keys.json"
        self.clock = HandClock(NOW_MS)
        engine: EngineConfig = from_mapping({"detectors": [], "warmup_observations": 2, **config}, EngineConfig)
        settings = Settings(engine=engine, store=StoreSection(file=str(folder / "store.db")))
        self.service = Service(settings, clock=self.clock)
        self.service.start()
        self.app = self.service.http()
        self.cookies: dict[str, str] = {}
        self._runner = asyncio.Runner()

    def close(self) -> None:
        self._runner.close()
        self.service.stop()

    def key(self, scope: Any, name: str = "ana's laptop") -> str:
        """Make a key; the running service notices."""
        _, token = create(self.keys_path, name=name, scopes=[scope])
        self.look_at_keys()
        return token

    def look_at_keys(self) -> None:
        """Have the ring look at its file with the next request, which it does once a second by itself."""
        self.service.keys._look_s = -math.inf

    def request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        headers = {"Host": "localhost:8080", **kwargs.pop("headers", {})}
        if self.cookies and "Cookie" not in headers:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8080") as client:
                return await client.request(method, path, headers=headers, **kwargs)

        response = self._runner.run(ask())
        for header in response.headers.get_list("set-cookie"):
            name, _, value = header.partition(";")[0].partition("=")
            if value:
                self.cookies[name] = value
            else:
                self.cookies.pop(name, None)
        return response

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return self.request("GET", path, **kwargs)

    def form(self, path: str, fields: dict[str, str], **kwargs: Any) -> httpx.Response:
        headers = {"Content-Type": "application/x-www-form-urlencoded", **kwargs.pop("headers", {})}
        return self.request("POST", path, content=urlencode(fields).encode(), headers=headers, **kwargs)

    def log_in(self, token: str, **kwargs: Any) -> httpx.Response:
        return self.form("/session", {"key": token}, **kwargs)

    def stream(self, **query: str) -> httpx.Response:
        return self.get("/stream?" + urlencode({**STREAM, **query}))

    def token(self) -> str:
        """The token that the forms of a stream's page bear."""
        found = re.search(r'name="csrf" value="([^"]+)"', self.stream().text)
        assert found is not None
        return found[1]

    def hidden(self, page: str) -> dict[str, str]:
        """The hidden fields of the form of a page."""
        names = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', page.partition("<main")[2])
        return {html.unescape(name): html.unescape(value) for name, value in names}

    def override(self, **changes: str) -> dict[str, str]:
        """What somebody fills in to pause a stream for four hours."""
        return {**STREAM, "csrf": self.token(), "state": "REDUCING", "side": "", "scope": "stream", "hours": "4",
                "actor": "Ana", "reason": "exchange is down", **changes}  # fmt: skip

    def send(self, kind: str, events: list[dict[str, Any]]) -> None:
        """Put events in, as the API would, whatever keys there are."""
        from regime import codec
        from regime.events import Candle, Equity, Observation, Trade

        kinds: dict[str, Any] = {"observations": Observation, "trades": Trade, "candles": Candle, "equity": Equity}
        parsed = codec.parse(msgspec.json.encode(events), kinds[kind])
        self._runner.run(self.service.ingest(parsed))

    def warm(self, count: int = 3, **changes: Any) -> None:
        """Observations of `count` candles, the newest of which closed 10 s ago."""
        self.send("observations", [self.observation(i - count + 1, **changes) for i in range(count)])

    def observation(self, candle: int = 0, /, **changes: Any) -> dict[str, Any]:
        ts_ms = (NOW_MS // STEP_MS - 1 + candle) * STEP_MS
        price = 100.0 + candle % 7
        ohlcv = {"open": price, "high": price + 1, "low": price - 1, "close": price, "volume": 1.0}
        return {**STREAM, "ts_ms": ts_ms, "features": {"f1": 1.0, "f2": 2.5}, "candle": ohlcv, **changes}

    def overrides(self) -> list[Any]:
        return list(self.service.overrides().values())


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """`make_site(configuration as keywords)`."""
    made: list[Site] = []

    def make(**config: Any) -> Site:
        made.append(Site(tmp_path, **config))
        return made[-1]

    yield make
    for site in made:
        site.close()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """An open one with a stream that trades."""
    made = make_site()
    made.warm()
    return made
