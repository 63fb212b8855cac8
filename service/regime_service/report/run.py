"""Offline replay: read the files of a bot, play them through the engine of the service, write what happened.

    report.html      for a person: one file, pictures inside, no request to anybody
    report.json      the same for a program
    decisions.jsonl  the answer after each observation (or, without observations, each answer that changed something)

The same files and the same configuration give the same `report.json` and `decisions.jsonl`, byte for byte, on whatever
day and in whatever folder they are read: no clock, no path and no randomness without a seed goes in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from regime.config import EngineConfig, config_digest
from regime.decision import Decision, to_answer
from regime.edge import Edge
from regime.engine import Engine
from regime.errors import OperatorError
from regime.events import SIDES, AnyEvent, Candle, Observation, Recalibrated, Side, StreamKey, Trade
from regime.fleet import Fleet
from regime.guard_value import GuardValue, Verdict, curves, guard_value, verdicts
from regime.policy import PRESETS
from regime.reference import Reference
from regime.replay import Played, merged, replay
from regime.timeframe import timeframe_ms
from regime.what_if import Refused, what_if
from regime_service.drawing.shown import Blamed, History, blamed
from regime_service.logs import LogMapping, TradeMapping, read_candles, read_features, read_reference, read_trades
from regime_service.logs.findings import Findings, count
from regime_service.report import pictures, words
from regime_service.report.story import Story, plain_change, plain_drift, said

EPOCH = "0" * 26
"""A replay has no store, so its answers bear the smallest ULID."""
LEASE_SLACK_MS = 60_000
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """What to replay, and where to."""

    reference: str | None
    features: tuple[str, ...]
    """May be empty: then trades alone are played."""
    trades: tuple[str, ...] | None
    candles: tuple[str, ...] | None
    model: str
    symbol: str
    timeframe: str
    config: EngineConfig
    out: Path
    feature_mapping: LogMapping = field(default_factory=LogMapping)
    trade_mapping: TradeMapping = field(default_factory=TradeMapping)
    candle_mapping: LogMapping = field(default_factory=LogMapping)
    reference_mapping: LogMapping = field(default_factory=LogMapping)
    what_if: Refused | None = None
    """What becomes of trades that the guard refuses (`regime.what_if`); None feeds every trade as it stands."""
    json: bool = False
    """True where a program reads the answer: nothing is written to the console, the caller prints what is returned."""


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """What the files held."""

    reference: Reference | None
    reference_version: str | None
    observations: list[Observation]
    trades: list[Trade]
    candles: list[Candle]
    findings: dict[str, Findings]
    what_if: Refused | None = None


@dataclass(frozen=True, kw_only=True)
class _Result:
    """What playing them came to."""

    story: Story
    fleet: Fleet
    events: int
    ticks: int
    lines: int

    @property
    def engine(self) -> Engine:
        return self.fleet.engine(self.story.key)


def run_replay(options: ReplayOptions, console: Console) -> dict[str, Any]:
    """Replay the files of `options`, write the report into `options.out` and return what `report.json` holds.

    Raises `OperatorError` or `CallerError` in one sentence for input that cannot be used; nothing is written then.
    A progress bar is shown on a terminal, nothing in a pipe.
    """
    with _bars(console, quiet=options.json) as bars:
        inputs = _read(options, bars)
        config = _offline(options.config, inputs)
        _make_folder(options.out)
        key = StreamKey(options.model, options.symbol, options.timeframe)
        result = _play(inputs, config, key, options.out, bars)
        judged = verdicts(inputs.trades, {key: result.story.decisions}, base_entry=config.model(key.model).entry)
        shadow = sum(trade.shadow for trade in inputs.trades)
        value = guard_value(judged, shadow_left_out=shadow) if judged else None
        compared = _compare(inputs, config, key, value, result.story, bars)
        task = bars.add_task("drawing", total=None)
        shown, source = pictures.history(
            result.story, inputs.observations, inputs.candles, inputs.trades, inputs.reference
        )  # fmt: skip
        drawn = list(_pictures(inputs, config, result, judged, shown, source))
        bars.remove_task(task)
        report = _report(inputs, config, key, result, judged, value, compared, drawn)
    # The page is made from what the file holds, so that the two cannot tell different stories.
    raw = msgspec.json.encode(report)
    told: dict[str, Any] = msgspec.json.decode(raw)
    _write(options.out / "report.json", msgspec.json.format(raw, indent=1) + b"\n")
    _write(options.out / "report.html", _page(told, drawn, shown, _edges(result.engine)).encode())
    if not options.json:
        summary = told["summary"]
        for sentence in (summary["happened"], summary["means"], summary["do"]):
            console.print(sentence, markup=False, highlight=False, soft_wrap=True)
        console.print(f"Report: {options.out / 'report.html'}", markup=False, highlight=False, soft_wrap=True)
    return told


class Backtest:
    """The files of a replay, read once, to be played under many configurations. Raises as `run_replay`."""

    def __init__(self, options: ReplayOptions) -> None:
        self._options = options
        with _bars(Console(), quiet=True) as bars:
            self._inputs = _read(options, bars)

    @property
    def trades(self) -> list[Trade]:
        return self._inputs.trades

    @property
    def notes(self) -> list[str]:
        """Nothing that the files' own reader did not have to refuse."""
        return []

    def verdicts(self, config: EngineConfig) -> list[Verdict]:
        """Return what the guard would have said to each real trade under `config`, in the order of opening."""
        config, key = _offline(config, self._inputs), self._key
        fleet, decisions = _fleet(self._inputs, config), list[Decision]()
        for played in _played(_events(self._inputs, key), fleet, self._inputs, config, key.model):
            decisions += [step.decision for stream, step in played.steps if stream == key and step.changed]
        return verdicts(self._inputs.trades, {key: decisions}, base_entry=config.model(key.model).entry)

    @property
    def _key(self) -> StreamKey:
        return StreamKey(self._options.model, self._options.symbol, self._options.timeframe)


def _offline(config: EngineConfig, inputs: _Inputs) -> EngineConfig:
    config = msgspec.structs.replace(config, clock="event")
    if not inputs.observations:
        # Nobody can be silent who never speaks: without observations there is no warm-up and no staleness.
        config = msgspec.structs.replace(config, require_observations=False)
    return config


# --- reading --------------------------------------------------------------------------------------------------------


def _read(options: ReplayOptions, bars: Progress) -> _Inputs:
    if not options.features and not options.trades:
        raise OperatorError("there is nothing to replay: give --features, --trades, or both")
    try:
        timeframe_ms(options.timeframe)
    except ValueError as error:
        raise OperatorError(f"--timeframe: {error}") from None
    model, symbol, timeframe = options.model, options.symbol, options.timeframe
    task = bars.add_task("reading", total=None)

    def progress(done: int, name: str) -> None:
        bars.update(task, completed=done, description=f"reading {Path(name).name}")

    findings: dict[str, Findings] = {}
    reference, version = None, None
    if options.reference is not None:
        reference, findings["reference"] = read_reference(
            options.reference, mapping=options.reference_mapping, timeframe=options.timeframe, progress=progress
        )
        version = _stem(options.reference)
    observations: list[Observation] = []
    if options.features:
        log = read_features(
            options.features, model=model, symbol=symbol, timeframe=timeframe, mapping=options.feature_mapping,
            progress=progress,
        )  # fmt: skip
        observations, findings["features"] = log.observations, log.findings
    trades: list[Trade] = []
    if options.trades:
        listed = read_trades(
            options.trades, model=model, symbol=symbol, timeframe=timeframe, mapping=options.trade_mapping,
            fee_ratio=options.config.model(model).fee_ratio, progress=progress,
        )  # fmt: skip
        trades, findings["trades"] = listed.trades, listed.findings
    candles: list[Candle] = []
    if options.candles:
        market = read_candles(
            options.candles, symbol=symbol, timeframe=timeframe, mapping=options.candle_mapping, progress=progress
        )
        candles, findings["candles"] = market.candles, market.findings
    bars.remove_task(task)
    return _Inputs(
        reference=reference, reference_version=version, observations=observations, trades=trades, candles=candles,
        findings=findings, what_if=options.what_if,
    )  # fmt: skip


def _stem(file: str) -> str:
    name = Path(file).name.removesuffix(".gz")
    return (Path(name).stem or name)[:128]


# --- playing --------------------------------------------------------------------------------------------------------


def _fleet(inputs: _Inputs, config: EngineConfig) -> Fleet:
    known = {} if inputs.reference is None else {inputs.reference.reference_id: inputs.reference}

    def reference(reference_id: str) -> Reference:
        return known[reference_id]

    return Fleet(config, reference)


def _played(
    events: list[AnyEvent], fleet: Fleet, inputs: _Inputs, config: EngineConfig, model: str
) -> Iterator[Played]:
    if inputs.what_if is None:
        return replay(events, fleet)
    return what_if(events, fleet, inputs.what_if, base_entry=config.model(model).entry)


def _events(inputs: _Inputs, key: StreamKey) -> list[AnyEvent]:
    first: list[AnyEvent] = []
    if inputs.reference is not None and inputs.reference_version is not None:
        first.append(
            Recalibrated(
                model=key.model, symbol=key.symbol, timeframe=key.timeframe, version=inputs.reference_version,
                reference_id=inputs.reference.reference_id, trained_until_ms=inputs.reference.trained_until_ms,
            )
        )  # fmt: skip
    return merged(first, inputs.candles, inputs.trades, inputs.observations)


def _play(inputs: _Inputs, config: EngineConfig, key: StreamKey, out: Path, bars: Progress) -> _Result:
    events = _events(inputs, key)
    fleet = _fleet(inputs, config)
    story = _story(inputs, config, key)
    valid_for_ms = timeframe_ms(key.timeframe) + LEASE_SLACK_MS
    encoder = msgspec.json.Encoder()
    ticks = lines = 0
    task = bars.add_task("playing", total=len(events))
    try:
        with (out / "decisions.jsonl").open("wb") as file:
            for played in _played(events, fleet, inputs, config, key.model):
                tick = type(played.event).__name__ == "Tick"
                ticks += tick
                if not tick:
                    bars.advance(task)
                story.take(played, fleet.engine(key) if key in fleet else None)
                for step_key, step in played.steps:
                    told = isinstance(played.event, Observation) if inputs.observations else step.changed
                    if told and step_key == key:
                        answer = to_answer(step.decision, epoch=EPOCH, valid_for_ms=valid_for_ms)
                        file.write(encoder.encode(answer) + b"\n")
                        lines += 1
    except OSError as error:
        raise _cannot_write(out / "decisions.jsonl", error) from None
    bars.remove_task(task)
    return _Result(story=story, fleet=fleet, events=len(events), ticks=ticks, lines=lines)


def _story(inputs: _Inputs, config: EngineConfig, key: StreamKey) -> Story:
    # Candles alone are no sign of a bot: the period is that of its observations and trades.
    step_ms = timeframe_ms(key.timeframe)
    seen = [observation.ts_ms + step_ms for observation in inputs.observations]
    times = [*seen, *(trade.closed_ms for trade in inputs.trades)]
    observed = (min(seen), max(seen)) if seen else None
    return Story(key, config, period_ms=(min(times), max(times)), observed_ms=observed)


def _compare(
    inputs: _Inputs, config: EngineConfig, key: StreamKey, value: GuardValue | None, story: Story, bars: Progress
) -> list[dict[str, Any]]:
    """Return one row per set of rules: the one asked for, then the shipped presets, each over the same files."""
    if value is None:
        return []
    own = config.preset if config.rules is None else "your rules"
    rows = [_row(own, value, story)]
    for preset in PRESETS:
        if preset == own:
            continue
        other = msgspec.structs.replace(config, preset=preset, rules=None, detectors=_detectors(config))
        again, events = _story(inputs, other, key), _events(inputs, key)
        fleet = _fleet(inputs, other)
        task = bars.add_task(f"the same under {preset}", total=len(events))
        for played in _played(events, fleet, inputs, other, key.model):
            again.take(played, None)
            bars.advance(task)
        bars.remove_task(task)
        judged = verdicts(inputs.trades, {key: again.decisions}, base_entry=config.model(key.model).entry)
        rows.append(_row(preset, guard_value(judged, shadow_left_out=value.shadow_left_out), again))
    return rows


def _detectors(config: EngineConfig) -> Any:
    return list(PRESETS[config.preset].detectors) if config.detectors is None else config.detectors


def _row(name: str, value: GuardValue, story: Story) -> dict[str, Any]:
    return {
        "rules": name,
        "refused": value.refused,
        "profit_ratio": value.profit_with_ratio,
        "drawdown_ratio": value.drawdown_with_ratio,
        "shifts_as_good_ratio": value.shifts_as_good_ratio,
        "pauses": sum(story.pauses(side) for side in SIDES),
    }


# --- telling --------------------------------------------------------------------------------------------------------


def _pictures(
    inputs: _Inputs, config: EngineConfig, result: _Result, judged: Sequence[Verdict], shown: History, source: str
) -> Iterator[pictures.Picture]:
    story, engine = result.story, result.engine
    yield from pictures.of_market(shown, source)
    why_not, period_ms = _why_no_drift(inputs), (shown.start_ms, shown.end_ms)
    for detector in _detectors(config):
        track = story.drift.get(detector.kind)
        yield pictures.of_detector(detector.kind, track, why_not=why_not, period_ms=period_ms)
    yield pictures.of_features(shown, _blamed(engine, story))
    yield pictures.of_claims(_edges(engine))
    listed = [t for t in inputs.trades if not t.shadow] or inputs.trades
    yield pictures.of_results(listed, config.model(story.key.model).payoff_ratio)
    yield pictures.of_guard(curves(judged), judged)


def _blamed(engine: Engine, story: Story) -> Blamed:
    """What rings at the end, as the page would show it; where all is calm again, what rang last."""
    now = blamed(
        (found.name, None if (change := watch.changed(found)) is None else change._asdict())
        for watch in engine.watches for found in watch.evidence()
    )  # fmt: skip
    if now.change_ms is not None:
        return now
    return blamed((kind, None if t.change is None else t.change._asdict()) for kind, t in story.drift.items())


def _edges(engine: Engine) -> dict[Side, Edge]:
    return {side: engine.edge(side) for side in SIDES}


def _why_no_drift(inputs: _Inputs) -> str:
    if not inputs.observations:
        return "no observations were given"
    few = count(len(inputs.observations), "observation") + (" is" if len(inputs.observations) == 1 else " are")
    if inputs.reference is None:
        return f"no reference was given, and {few} too few to be its own"
    return f"{few} too few to fill its window"


def _report(
    inputs: _Inputs,
    config: EngineConfig,
    key: StreamKey,
    result: _Result,
    judged: Sequence[Verdict],
    value: GuardValue | None,
    compared: list[dict[str, Any]],
    drawn: Sequence[pictures.Picture],
) -> dict[str, Any]:
    story = result.story
    model = config.model(key.model)
    firings = story.firings()
    drift = plain_drift(story.drift, [detector.kind for detector in _detectors(config)])
    engine = result.engine
    last: Decision | None = engine.decision
    real = sum(not trade.shadow for trade in inputs.trades)
    return {
        "format": FORMAT,
        "stream": {"model": key.model, "symbol": key.symbol, "timeframe": key.timeframe},
        "summary": {
            "happened": words.happened(
                story, observations=story.judged, trades=len(inputs.trades), findings=inputs.findings, base=model.entry
            ),
            "means": words.means(value, drift),
            "do": words.to_do(story, firings, judged, value, inputs.findings, mode=config.mode),
        },
        "what_if": inputs.what_if,
        "notes": [
            *words.notes(story, config, judged, value, inputs.findings),
            *words.fed(inputs.what_if, value), *words.edges(engine),
        ],
        "edge": {
            side: {"edge": msgspec.to_builtins(engine.edge(side)),
                   "out_of_sample": msgspec.to_builtins(engine.out_of_sample(side))}
            for side in SIDES
        },
        "period": {"from_ms": story.start_ms, "to_ms": story.end_ms},
        "inputs": {what: _input(found) for what, found in inputs.findings.items()},
        "reference": None
        if inputs.reference is None
        else {
            "reference_id": inputs.reference.reference_id, "version": inputs.reference_version,
            "rows": inputs.reference.rows, "features": len(inputs.reference.names),
        },
        "counts": {
            "events": result.events, "ticks": result.ticks, "observations": len(inputs.observations),
            "observations_judged": story.judged, "observations_late": story.late,
            "trades": len(inputs.trades), "trades_real": real, "trades_shadow": len(inputs.trades) - real,
            "candles": len(inputs.candles), "decision_lines": result.lines, "versions": last.version if last else 0,
            "balanced": all(found.balanced for found in inputs.findings.values())
            and story.judged + story.late == len(inputs.observations),
        },
        "digest": result.fleet.digest(),
        "decision_chain": engine.state.chain,
        "config": {"digest": config_digest(config), **msgspec.to_builtins(config)},
        "policy_id": last.policy_id if last else None,
        "last_answer": None if last is None
        else to_answer(last, epoch=EPOCH, valid_for_ms=timeframe_ms(key.timeframe) + LEASE_SLACK_MS),
        "sides": {
            side: {
                "shares": story.shares(side), "pauses": story.pauses(side),
                "entry_raised_share": story.raised(side, model.entry),
                "state_at_end": None if last is None else str(said(last, side).state),
            }
            for side in SIDES
        },
        "timeline": [plain_change(change) for change in story.changes()],
        "rules": [
            {
                "code": f.code, "kind": f.kind, "side": f.side, "since_ms": f.since_ms, "until_ms": f.until_ms,
                "value": f.value, "limit": f.limit, "version": f.version, "text": f.text,
            }
            for f in firings
        ],
        "rules_by_code": _by_code(story),
        "drift": drift,
        "guard_value": None if value is None else msgspec.to_builtins(value),
        "compared": compared,
        "refused_trades": [
            {
                "trade_id": v.trade.trade_id, "side": v.trade.side, "opened_ms": v.trade.opened_ms,
                "profit_ratio": v.trade.profit_ratio, "codes": list(v.codes),
            }
            for v in judged if v.refused
        ],
        "pictures": [
            {"name": p.name, "title": p.title, "drawn": p.svg is not None, "sentence": p.sentence} for p in drawn
        ],
    }  # fmt: skip


def _by_code(story: Story) -> list[dict[str, Any]]:
    """Return for every rule there is (faults first) how often it fired and how long it stood, per side."""
    found = []
    for code in (*story.fault_codes, *story.rule_codes):
        row: dict[str, Any] = {"code": code, "kind": "fault" if code in story.fault_codes else "rule"}
        for side in SIDES:
            its = [f for f in story.firings() if f.code == code and f.side == side]
            stood = sum((story.end_ms if f.until_ms is None else f.until_ms) - f.since_ms for f in its)
            whole = story.end_ms - story.start_ms
            row[side] = {"fired": len(its), "share": stood / whole if whole else 0.0}
        found.append(row)
    return found


def _input(found: Findings) -> dict[str, Any]:
    """Return findings as plain values; files are called by their names, not by where they lie."""
    names = _short_names([file.name for file in found.files])

    def short(node: Any) -> Any:
        if isinstance(node, str):
            for long, name in names.items():
                node = node.replace(long, name)
            return node
        if isinstance(node, dict):
            return {key: short(value) for key, value in node.items()}
        return [short(value) for value in node] if isinstance(node, list | tuple) else node

    return {
        "balanced": found.balanced,
        "sentences": short(found.sentences()),
        **{name: short(value) for name, value in found.to_builtins().items()},
    }


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """Map each path to its last part, or to as many parts as tell it from the others; longest path first."""
    found: dict[str, str] = {}
    for name in sorted(set(names), key=lambda n: (-len(n), n)):
        parts = Path(name).parts
        for taken in range(1, len(parts) + 1):
            short = "/".join(parts[-taken:])
            if not any(other != name and Path(other).parts[-taken:] == parts[-taken:] for other in names):
                break
        found[name] = short.lstrip("/")
    return {name: short for name, short in found.items() if name != short}


def _page(told: dict[str, Any], drawn: Sequence[pictures.Picture], shown: History, edges: Mapping[Side, Edge]) -> str:
    from regime_service.report.page import render

    return render(
        told, {picture.name: picture.svg for picture in drawn}, drift=shown.drift,
        bins={side: edge.bins for side, edge in edges.items()},
    )  # fmt: skip


# --- the folder and the terminal ------------------------------------------------------------------------------------


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(out, error) from None


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise _cannot_write(file, error) from None


def _cannot_write(file: Path, error: OSError) -> OperatorError:
    return OperatorError(f"{file}: cannot be written ({error.strerror or 'input/output error'})")


@contextmanager
def _bars(console: Console, *, quiet: bool) -> Iterator[Progress]:
    progress: Callable[..., Progress] = Progress
    with progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=quiet or not console.is_terminal,
    ) as bars:  # fmt: skip
        yield bars


__all__ = ["Backtest", "ReplayOptions", "run_replay"]
