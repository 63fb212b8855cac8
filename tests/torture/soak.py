"""An hour of ordinary work on the real `regime serve`: does it grow, run out of descriptors, or ever say no?

    python tests/torture/soak.py [--minutes 60] [--streams 8] [--seed 1] [--control leak|descriptors]

The service runs as a user would start it, on a socket and a store of its own, on event time (a candle of five minutes
takes a fraction of a second, so that an hour is weeks of trading). Bots send observations of 200 features with candles
and probabilities, closed and paper trades, equity, now and then a duplicate and a late one; others poll with and
without ETag, over connections that stay and over new ones; an operator sets and ends overrides; references are
registered anew; Prometheus scrapes; `/v1/explain` and `/v1/decisions` are read.

Warm-up: what an installation remembers of a stream is bounded (500 outcomes a side, 64 candles, the windows of the
detectors), and while those fill, memory grows as it should. So the warm-up sends as fast as it can, until every stream
has had 3,000 observations and 1,100 trades, and the reference was registered three times. Only then it is measured.

Judged over the rest of the run, samples every second:

* memory: the Theil-Sen slope (median of the slopes between samples) of the resident set, times the length of the run,
  is less than 2 % of its median. One burst that is given back does not count, a slow leak does;
* descriptors and threads: the median of the last third is not over that of the first third by more than two. What is
  open for a moment (a reference that is read in a process of its own, a client that connects anew) does not count, what
  is never closed does;
* every answer is 200, or 304 where an ETag was sent. A 503 with Retry-After is asked again, as a bot does, up to ten
  times, and counted: a machine that is busy with other things makes some. More than one in 1,000 is too many;
* at the end the service is stopped and started again, then killed and started again: the digest of every stream is the
  same both times.

The log itself grows, on disk: it is the truth, and nothing is deleted from it. The controls are a service that keeps
the bytes of each event, and one that opens a file with every hundredth event and forgets it; both must fail.

Exit codes: 0 all of that held (a control: it was found out), 1 it was the other way round.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from urllib.parse import urlencode

import numpy as np

from regime_service import cli
from regime_service.testing import Served

CANDLE_MS = 300_000
BEGIN_MS = 1_700_000_000_000 // CANDLE_MS * CANDLE_MS
FEATURES = 200
GROWTH_MAX = 0.02
DESCRIPTORS_MORE = THREADS_MORE = 2
WARM_OBSERVATIONS, WARM_TRADES, WARM_REFERENCES = 3000, 1100, 3
ASKED_AGAIN_MAX = 10
BUSY_MAX = 0.001
CONTROLS = ("leak", "descriptors")
CONFIG = """
clock = "event"
streams_expected = 50

[models.m.exits]
take_profit_ratio = 0.01
stop_loss_ratio = 0.01
max_hold_candles = 24
"""


class Sample(NamedTuple):
    """What the process held at one moment, `at_s` seconds after the warm-up."""

    at_s: float
    rss_kb: int
    descriptors: int
    threads: int


class Found(NamedTuple):
    """What a run came to; `faults` is empty where all held."""

    samples: list[Sample]
    requests: int
    busy: int
    observations: int
    trades: int
    references: int
    warm_s: float
    growth: float
    store_mb: float
    faults: list[str]


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """Return the Theil-Sen slope: the median over pairs. At most 400 samples, evenly chosen, take part.

    >>> slope([(0, 1.0), (1, 2.0), (2, 99.0), (3, 4.0), (4, 5.0)])
    1.0
    """
    chosen = samples[:: -(-len(samples) // 400)]
    slopes = [(b - a) / (t - s) for (s, a), (t, b) in itertools.combinations(chosen, 2) if t > s]
    return median(slopes)


def memory_growth(samples: Sequence[Sample]) -> float:
    """Return the growth of the resident set over the run as a share of its median."""
    length_s = samples[-1].at_s - samples[0].at_s
    return slope([(s.at_s, s.rss_kb) for s in samples]) * length_s / median(s.rss_kb for s in samples)


def more_at_the_end(values: Sequence[int]) -> float:
    """Return by how much the median of the last third is over that of the first third."""
    if not values:
        return 0.0
    third = max(1, len(values) // 3)
    return median(values[-third:]) - median(values[:third])


class Shared:
    """What all bots count, and what they find wrong."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.stop = threading.Event()
        self.warm = threading.Event()
        self.rest_s = 0.0
        self._lock = threading.Lock()
        self.requests = self.busy = self.observations = self.trades = self.references = 0
        self.faults: list[str] = []

    def add(self, **counts: int) -> None:
        with self._lock:
            for name, n in counts.items():
                setattr(self, name, getattr(self, name) + n)

    def fault(self, words: str) -> None:
        with self._lock:
            self.faults.append(words)


class Line:
    """One client's connection."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._connection = http.client.HTTPConnection(shared.address, timeout=60)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[dict[str, str], bytes]:
        headers = headers or {}
        for _ in range(ASKED_AGAIN_MAX):
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            said = response.read()
            self._shared.add(requests=1)
            if response.status != 503 or response.getheader("Retry-After") is None:
                break
            self._shared.add(busy=self._shared.warm.is_set())
            time.sleep(1.0)
        if response.status != 200 and not (response.status == 304 and "If-None-Match" in headers):
            self._shared.fault(f"{method} {path[:60]}: {response.status} {said[:200]!r}")
        return {name.lower(): value for name, value in response.getheaders()}, said

    def post(self, path: str, body: Any) -> dict[str, Any]:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer: dict[str, Any] = json.loads(self.ask("POST", path, raw, {"Content-Type": "application/json"})[1])
        return answer

    def close(self) -> None:
        self._connection.close()


class Client(threading.Thread):
    """Something that talks to the service until it is told to stop."""

    def __init__(self, shared: Shared, seed: int) -> None:
        super().__init__(daemon=True)
        self.shared = shared
        self.rng = random.Random(seed)

    def run(self) -> None:
        line = Line(self.shared)
        try:
            for _ in self.rounds(line):
                if self.shared.stop.wait(self.shared.rest_s if self.shared.warm.is_set() else 0):
                    return
        except Exception as error:
            self.shared.fault(f"{type(self).__name__}: {type(error).__name__}: {error}")
        finally:
            line.close()

    def rounds(self, line: Line) -> Iterator[None]:
        raise NotImplementedError


class Bot(Client):
    """Sends what happens on its streams, one candle of all of them a round."""

    def __init__(
        self, shared: Shared, seed: int, symbols: Sequence[str], rows: Sequence[bytes], *, accountant: bool
    ) -> None:
        super().__init__(shared, seed)
        self._symbols, self._rows, self._accountant = symbols, rows, accountant
        self.candles = self.closed = 0

    def rounds(self, line: Line) -> Iterator[None]:
        rng, price = self.rng, dict.fromkeys(self._symbols, 100.0)
        for n in itertools.count():
            at_ms = BEGIN_MS + n * CANDLE_MS
            for symbol in self._symbols:
                price[symbol] *= 1 + rng.gauss(0, 0.002)
                if n % 97 == 50:
                    continue
                body = self._observation(symbol, at_ms, price[symbol])
                line.post("/v1/observations", body)
                if rng.random() < 0.02:
                    line.post("/v1/observations", body)
                if n % 97 == 52:
                    line.post("/v1/observations", self._observation(symbol, at_ms - 2 * CANDLE_MS, price[symbol]))
                if rng.random() < 0.4:
                    line.post("/v1/trades", [self._trade(symbol, at_ms, price[symbol], n)])
                    self.shared.add(trades=1)
                self.shared.add(observations=1)
            if self._accountant and n % 12 == 0:
                equity = 1000 * (1 + rng.random() / 50)
                line.post("/v1/equity", {"model": "m", "ts_ms": at_ms, "equity": equity})
            self.candles = n + 1
            yield

    def _observation(self, symbol: str, ts_ms: int, price: float) -> bytes:
        candle = {"open": price, "high": price * 1.003, "low": price * 0.997, "close": price, "volume": 1.0}
        claims = {"long": self.rng.random(), "short": self.rng.random()}
        head = json.dumps(
            {"model": "m", "symbol": symbol, "timeframe": "5m", "ts_ms": ts_ms, "candle": candle,
             "probabilities": claims}
        )  # fmt: skip
        return head[:-1].encode() + b', "features": ' + self.rng.choice(self._rows) + b"}"

    def _trade(self, symbol: str, at_ms: int, price: float, n: int) -> dict[str, Any]:
        rng = self.rng
        self.closed += 1
        return {
            "model": "m", "symbol": symbol, "timeframe": "5m", "trade_id": f"{symbol}-{n}",
            "side": rng.choice(("long", "short")), "opened_ms": at_ms - CANDLE_MS, "closed_ms": at_ms,
            "entry_price": price, "exit_price": price, "profit_ratio": rng.gauss(0.001, 0.01),
            "entry_probability": rng.uniform(0.8, 1.0), "exit_reason": rng.choice(("ml_exit", "stop_loss")),
            "shadow": rng.random() < 0.2,
        }  # fmt: skip


class Poller(Client):
    """Asks for thresholds, with the ETag it was told, every tenth time over a new connection."""

    def __init__(self, shared: Shared, seed: int, symbols: Sequence[str]) -> None:
        super().__init__(shared, seed)
        self._symbols = symbols

    def rounds(self, line: Line) -> Iterator[None]:
        etag = ""
        while not self.shared.observations >= 2 * len(self._symbols):
            yield
        for n in itertools.count():
            query = urlencode({"model": "m", "symbol": ",".join(self._symbols), "timeframe": "5m"})
            headers = {"If-None-Match": etag} if etag and n % 5 else {}
            if n % 10:
                etag = line.ask("GET", f"/v1/thresholds?{query}", headers=headers)[0]["etag"]
            else:
                other = Line(self.shared)
                other.ask("GET", f"/v1/thresholds?{query}")
                other.close()
            if n % 20 == 0:
                one = urlencode({"model": "m", "symbol": self.rng.choice(self._symbols), "timeframe": "5m"})
                line.ask("GET", f"/v1/explain?{one}")
                line.ask("GET", f"/v1/decisions?{one}&limit=100")
                line.ask("GET", "/metrics")
            yield


class Operator(Client):
    """Sets and ends overrides, and registers the sample of a model that was trained anew."""

    def __init__(self, shared: Shared, seed: int, every_s: float) -> None:
        super().__init__(shared, seed)
        self._every_s = every_s
        self._numbers = np.random.default_rng(seed)

    def rounds(self, line: Line) -> Iterator[None]:
        while True:
            csv = sample_csv(self._numbers)
            path = f"/v1/models/m/references/v{self.shared.references + 1}?timeframe=5m"
            line.ask("PUT", path, csv, {"Content-Type": "text/csv"})
            self.shared.add(references=1)
            until_s = time.monotonic() + (self._every_s if self.shared.warm.is_set() else 5)
            while time.monotonic() < until_s and not self.shared.stop.is_set():
                state = self.rng.choice(("ACTIVE", "REDUCING", "HALTED"))
                word = {"model": "m", "state": state, "actor": "soak", "reason": "an exercise"}
                told = line.post("/v1/overrides", word)
                line.ask("DELETE", f"/v1/overrides/{told['id']}")
                self.shared.stop.wait(0.5)
            yield


def sample_csv(numbers: np.random.Generator) -> bytes:
    """Return a training-period sample of the bots' features."""
    rows = numbers.normal(size=(600, FEATURES))
    names = ",".join(f"f{i}" for i in range(FEATURES))
    return "\n".join([names, *(",".join(f"{x:.5f}" for x in row) for row in rows)]).encode()


def look(pid: int, since_s: float) -> Sample:
    """Read what the process holds."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines())
    descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return Sample(
        time.monotonic() - since_s, int(status["VmRSS"].split()[0]), descriptors, int(status["Threads"].split()[0])
    )


class Soaked(Served):
    """The service; for a control one that is broken on purpose."""

    patience_s = 180.0

    @classmethod
    def broken(cls, control: str) -> type[Soaked]:
        return type("Broken", (cls,), {"program": (__file__, "--broken-service", control)}) if control else cls


def soak(
    folder: Path, *, seconds: float, streams: int = 8, seed: int = 1, control: str = "", rest_s: float = 0.25,
    warm: float = 1.0, reference_every_s: float = 60.0, say: bool = False,
) -> Found:  # fmt: skip
    """Run it; `warm` is the share of the full warm-up that is made (a short test need not fill everything)."""
    service = Soaked.broken(control)(folder, CONFIG)
    began = time.monotonic()
    shared = Shared(service.address)
    shared.rest_s = rest_s
    symbols = [f"S{i}/USDT:USDT" for i in range(streams)]
    numbers = np.random.default_rng(seed)
    rows = [
        json.dumps({f"f{i}": round(float(x), 5) for i, x in enumerate(row)}).encode()
        for row in numbers.normal(size=(500, FEATURES))
    ]
    bots = [Bot(shared, seed * 100 + i, symbols[i::2], rows, accountant=i == 0) for i in range(2)]
    clients: list[Client] = [
        *bots, Poller(shared, seed * 100 + 50, symbols), Operator(shared, seed * 100 + 60, reference_every_s)
    ]  # fmt: skip
    samples: list[Sample] = []
    faults = shared.faults
    try:
        for client in clients:
            client.start()
        while not faults and not (
            min(bot.candles for bot in bots) >= WARM_OBSERVATIONS * warm
            and min(bot.closed / len(symbols[i::2]) for i, bot in enumerate(bots)) >= WARM_TRADES * warm
            and shared.references >= max(1, WARM_REFERENCES * warm)
        ):
            time.sleep(0.1)
        shared.warm.set()
        warm_s = time.monotonic() - began
        if say:
            print(f"warm after {warm_s:.0f} s and {shared.observations} observations", flush=True)
        since_s = time.monotonic()
        while not faults and time.monotonic() < since_s + seconds:
            samples.append(look(service.process.pid, since_s))
            if say and len(samples) % 60 == 1:
                s = samples[-1]
                print(
                    f"  {s.at_s / 60:5.1f} min: {s.rss_kb / 1024:.1f} MB, {s.descriptors} descriptors, "
                    f"{s.threads} threads, {shared.requests} requests, {shared.references} references", flush=True,
                )  # fmt: skip
            time.sleep(1.0)
        shared.stop.set()
        for client in clients:
            client.join(60)
        growth = memory_growth(samples) if len(samples) > 2 else 0.0
        if growth > GROWTH_MAX:
            faults.append(f"memory grew by {growth:.1%} (at most {GROWTH_MAX:.0%})")
        if (more := more_at_the_end([s.descriptors for s in samples])) > DESCRIPTORS_MORE:
            faults.append(f"{more:g} descriptors more in the last third than in the first")
        if (more := more_at_the_end([s.threads for s in samples])) > THREADS_MORE:
            faults.append(f"{more:g} threads more in the last third than in the first")
        if shared.busy > BUSY_MAX * shared.requests:
            faults.append(f"{shared.busy} of {shared.requests} requests were told to ask again")
        if not control:
            service = _start_again(service, folder, symbols, faults)
    finally:
        shared.stop.set()
        service.kill()
    store_mb = sum(path.stat().st_size for path in folder.glob("store.db*")) / 2**20
    return Found(
        samples,
        shared.requests,
        shared.busy,
        shared.observations,
        shared.trades,
        shared.references,
        warm_s,
        growth,
        store_mb,
        faults,
    )


def _digests(service: Served, symbols: Sequence[str]) -> list[str]:
    asked = [service.get("/v1/explain", model="m", symbol=symbol, timeframe="5m").json() for symbol in symbols]
    return [f"{told['digest']} {told['decision_chain']} {told['version']}" for told in asked]


def _start_again(service: Soaked, folder: Path, symbols: Sequence[str], faults: list[str]) -> Soaked:
    """Stop and start, kill and start: the state must be the same."""
    before = _digests(service, symbols)
    for how in ("stopped", "killed"):
        if how == "killed":
            service.kill()
        elif (code := service.stop()) != 0:
            faults.append(f"SIGTERM: exit code {code}")
        service = Soaked(folder, CONFIG)
        if _digests(service, symbols) != before:
            faults.append(f"the digests are others after it was {how} and started again")
    return service


def broken_service(control: str, arguments: list[str]) -> int:
    """`regime serve` with a leak. It exists here only; no setting of a user leads to it."""
    from regime_service.runners.embedded import EmbeddedRunner

    kept: list[Any] = []
    usual = EmbeddedRunner._step

    def leaking(self: EmbeddedRunner, event: Any, raw: bytes, shown: Any) -> Any:
        if control == "leak":
            kept.append(bytes(bytearray(raw)))
        elif self._last_seq % 100 == 0:
            kept.append(os.open(__file__, os.O_RDONLY))
        return usual(self, event, raw, shown)

    EmbeddedRunner._step = leaking  # type: ignore[method-assign]
    return cli.main(arguments)


def main() -> int:
    if sys.argv[1:2] == ["--broken-service"]:
        return broken_service(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description="Ordinary work for a long time: memory, descriptors, errors.")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rest", type=float, default=0.25, help="seconds a client rests between two rounds")
    parser.add_argument("--reference-every", type=float, default=60.0, help="seconds between two new references")
    parser.add_argument("--control", choices=CONTROLS, help="a service that must be found out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(
            Path(folder), seconds=arguments.minutes * 60, streams=arguments.streams, seed=arguments.seed,
            control=arguments.control or "", rest_s=arguments.rest, reference_every_s=arguments.reference_every,
            say=True,
        )  # fmt: skip
    rss = [s.rss_kb / 1024 for s in found.samples]
    open_, threads = [s.descriptors for s in found.samples], [s.threads for s in found.samples]
    print(
        f"{arguments.control or 'as shipped'}: {arguments.minutes:g} minutes after a warm-up of {found.warm_s:.0f} s, "
        f"{arguments.streams} streams of {FEATURES} features, {found.requests} requests ({found.busy} asked again), "
        f"{found.observations} "
        f"observations, {found.trades} trades, {found.references} references; store {found.store_mb:.0f} MB"
    )
    if rss:
        print(
            f"memory {rss[0]:.1f} MB at first, {median(rss):.1f} median, {max(rss):.1f} most, {rss[-1]:.1f} at last: "
            f"growth {found.growth:+.2%} by the Theil-Sen slope; descriptors {_range(open_)}, threads {_range(threads)}"
        )  # fmt: skip
    print(f"{len(found.faults)} faults")
    for fault in found.faults[:5]:
        print(f"  {fault}")
    return int(bool(found.faults) == (arguments.control is None))


def _range(values: Sequence[int]) -> str:
    return f"{min(values)} - {max(values)}" if min(values) != max(values) else str(values[0])


if __name__ == "__main__":
    sys.exit(main())
