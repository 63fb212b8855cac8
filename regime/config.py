"""Everything a user may turn in the engine, frozen, validated, with a digest.

`EngineConfig` is built from a mapping (a parsed TOML file) by `from_mapping`, which refuses an unknown key by name
with the nearest valid one, and a wrong value with the range it should be in. The digest of the configuration goes
into every snapshot: another configuration never continues from a snapshot made under this one.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import re
import types
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from regime.errors import OperatorError

Ratio = Annotated[float, Meta(ge=0.0, le=1.0)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]

ExitKind = Literal["ml_exit", "take_profit", "stop_loss", "max_hold", "manual", "other"]
EXIT_KINDS: tuple[str, ...] = get_args(ExitKind)


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all sections of the configuration."""


T = TypeVar("T", bound="Section")


class ExitRules(Section, frozen=True, kw_only=True):
    """How the bot itself leaves a trade; used to tell its exits apart and to resolve signals it did not take."""

    take_profit_ratio: Annotated[float, Meta(gt=0.0)] | None = None
    """Unleveraged gain at which the bot takes profit (0.02 is 2 %)."""
    stop_loss_ratio: Annotated[float, Meta(gt=0.0)] | None = None
    """Unleveraged loss at which the bot stops out (0.01 is 1 %)."""
    max_hold_candles: Count | None = None
    """Candles after which the bot leaves in any case."""
    exit_probability: Ratio | None = None
    """Exit probability at which the bot leaves."""
    max_open: Annotated[int, Meta(ge=1, le=50)] = 1
    """Positions of one side that the bot holds at once."""


class ModelConfig(Section, frozen=True, kw_only=True):
    """One model of the bot."""

    entry: Ratio = 0.80
    """Base entry threshold: the bot enters when its probability reaches it."""
    exit: Ratio = 0.75
    """Base exit threshold: the bot leaves when its exit probability reaches it."""
    fee_ratio: Annotated[float, Meta(ge=0.0, le=0.02)] = 0.0005
    """Fee per side (0.0005 is 0.05 %)."""
    trained_until: Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")] | None = None
    """Last day of the training data, `YYYY-MM-DD` (UTC)."""
    payoff_ratio: Annotated[float, Meta(gt=0.0, le=1000.0)] | None = None
    """Mean win over mean loss, net of fees; estimated from the bot's own closed trades when not given."""
    exits: ExitRules = msgspec.field(default_factory=ExitRules)
    exit_reasons: dict[str, ExitKind] = msgspec.field(default_factory=dict)
    """Maps the bot's own exit words (a prefix, any case) to `ml_exit`, `take_profit`, `stop_loss`, `max_hold`,
    `manual` or `other`."""
    ignore_features: list[str] = msgspec.field(default_factory=list)
    """Features that are neither watched nor part of the schema; `*` at the end matches any rest."""

    def __post_init__(self) -> None:
        if self.trained_until is not None:
            try:
                datetime.strptime(self.trained_until, "%Y-%m-%d")
            except ValueError:
                raise ValueError(f"{self.trained_until} is no day of any year") from None


class DetectorConfig(Section, frozen=True, kw_only=True):
    """One drift detector. `kind` is a file name in `regime/detectors/` or the dotted path of your own."""

    kind: str
    options: dict[str, bool | int | float | str] = msgspec.field(default_factory=dict)


class RuleConfig(Section, frozen=True, kw_only=True):
    """One rule of the policy. `kind` is a file name in `regime/rules/` or the dotted path of your own."""

    kind: str
    options: dict[str, bool | int | float | str] = msgspec.field(default_factory=dict)


class EngineConfig(Section, frozen=True, kw_only=True):
    """Configuration of the engine; every default is what `regime serve` runs with."""

    preset: Literal["default", "seed-rules", "conservative"] = "default"
    """Which rules judge: `default` (evidence), `conservative` (the same, but sooner and for longer) or `seed-rules`
    (the three plain rules many bots start with)."""
    mode: Literal["enforce", "shadow"] = "enforce"
    """`shadow` computes everything and tells the bot ACTIVE with its base thresholds; faults still show."""
    clock: Literal["wall", "event"] = "wall"
    """Whose time decides that a stream is stale: the machine's, or (replay, demo, back-fill) the events' own."""
    stale_after: Annotated[int, Meta(ge=1, le=10_000)] = 3
    """Candles without anything new after which a stream is stale and paused."""
    warmup_observations: Annotated[int, Meta(ge=0, le=1_000_000)] = 50
    """Observations needed before a stream may trade; rows of a reference count."""
    require_observations: bool = True
    """False for a bot that sends trades only: no warm-up and no staleness, and nobody notices when it falls silent."""
    auto_register: bool = True
    """Whether a new symbol or timeframe of a known model makes a new stream."""
    extra_features: Literal["pause", "ignore"] = "pause"
    """What a feature that is not in the reference (or in the first observation) does."""
    false_alarm_days: Annotated[float, Meta(gt=0.0, le=3650.0)] = 30.0
    """At most one false alarm in so many days, over the whole installation."""
    streams_expected: Annotated[int, Meta(ge=1, le=100_000)] = 1
    """Streams that share this budget: each gets its part of it."""
    false_pause_trades: Annotated[float, Meta(ge=20.0, le=1_000_000.0)] = 1000.0
    """At most one pause of a side that still earns its fees in so many of its trades. A rate per trade needs no share:
    it is the same for one stream and for a hundred together."""
    cooldown_candles: Annotated[int, Meta(ge=0, le=1_000_000)] = 12
    """Candles a vote stays in force at the least, once given: no flapping."""
    probation_candles: Annotated[int, Meta(ge=0, le=1_000_000)] = 48
    """Candles of probation after a pause by a rule."""
    probation_size: Ratio = 0.5
    """`size_factor` in probation."""
    detectors: list[DetectorConfig] | None = None
    """Replaces the preset's detectors."""
    rules: list[RuleConfig] | None = None
    """Replaces the preset's rules."""
    models: dict[str, ModelConfig] = msgspec.field(default_factory=dict)

    def rows_per_false_alarm(self, timeframe_ms: int, share: float) -> float:
        """Return the candles between two false alarms that one stream may afford for a `share` of its budget.

        At least 1: candles of months may be longer than the whole budget, and then any of them may be a false alarm.
        """
        return max(1.0, self.false_alarm_days * 86_400_000 / timeframe_ms * self.streams_expected / share)

    def model(self, name: str) -> ModelConfig:
        """Return the section of model `name`, or the defaults."""
        return self.models.get(name, _DEFAULT_MODEL)


_DEFAULT_MODEL = ModelConfig()


def config_digest(config: EngineConfig) -> str:
    """Return the SHA-256 (hex) of the configuration's canonical JSON."""
    return hashlib.sha256(msgspec.json.encode(config, order="deterministic")).hexdigest()


def from_mapping(mapping: Mapping[str, Any], section: type[T], *, source: str = "config") -> T:
    """Build `section` from a parsed TOML mapping.

    Raises `OperatorError` naming the exact key: an unknown one with the nearest valid name, a wrong value with what
    was expected.
    """
    return _convert(mapping, section, (), source)


def _convert(mapping: Mapping[str, Any], section: type[T], path: tuple[str, ...], source: str) -> T:
    hints = get_type_hints(section, include_extras=True)
    for key, value in mapping.items():
        if key not in hints:
            raise OperatorError(f"{source}: unknown key `{_dotted((*path, key))}`{nearest(key, hints)}")
        # Children first: an error is then reported at its own place and not at the parent's.
        for child, names, below in _children(hints[key], value):
            _convert(below, child, (*path, key, *names), source)
        _check(hints[key], value, (*path, key), source)
    try:
        return msgspec.convert(mapping, section)
    except msgspec.ValidationError as error:
        raise _refusal(error, path, source) from None


def _check(hint: Any, value: Any, path: tuple[str, ...], source: str) -> None:
    """Refuse what msgspec would let pass or could not name: an infinity, an entry of a mapping, a wrong word."""
    if isinstance(value, float) and not math.isfinite(value):
        raise OperatorError(f"{source}: `{_dotted(path)}`: expected a finite number, got {value}")
    if get_origin(hint) is Literal and isinstance(value, str) and value not in get_args(hint):
        raise OperatorError(f"{source}: `{_dotted(path)}`: unknown value {value!r}{nearest(value, get_args(hint))}")
    if get_origin(hint) is dict and isinstance(value, Mapping):
        of = get_args(hint)[1]
        for name, entry in value.items():
            _check(of, entry, (*path, name), source)
            try:
                msgspec.convert(entry, of)
            except msgspec.ValidationError as error:
                raise _refusal(error, (*path, name), source) from None


def _refusal(error: msgspec.ValidationError, path: tuple[str, ...], source: str) -> OperatorError:
    message, _, where = str(error).partition(" - at `$")
    key = _dotted((*path, *filter(None, where.rstrip("`").split("."))))
    return OperatorError(f"{source}: `{key or 'the top level'}`: {_EXPECTED.sub(_plain, message)}")


_EXPECTED = re.compile(r"Expected `([^`]*)`")
_PLAIN = {
    "float": "a number", "int": "a whole number", "str": "a text in quotes", "bool": "true or false",
    "array": "a list in [ ]", "object": "a section",
}  # fmt: skip


def _plain(match: re.Match[str]) -> str:
    # A key that may be left out is said to be `null` otherwise, which TOML does not know.
    words = [_PLAIN.get(word, word) for word in match[1].split(" | ") if word != "null"]
    return "expected " + " or ".join(words)


def _dotted(path: Iterable[str]) -> str:
    return ".".join(path).replace(".[", "[")


def _children(hint: Any, value: Any) -> list[tuple[type[Section], tuple[str, ...], Mapping[str, Any]]]:
    """Sections that stand below a value of type `hint`, each with its path from here and its mapping."""
    origin = get_origin(hint)
    if origin is Annotated:
        return _children(get_args(hint)[0], value)
    if origin in (Union, types.UnionType):
        return [child for arg in get_args(hint) for child in _children(arg, value)]
    if isinstance(hint, type) and issubclass(hint, Section) and isinstance(value, Mapping):
        return [(hint, (), value)]
    if origin is dict and isinstance(value, Mapping):
        items = [(str(name), below) for name, below in value.items()]
    elif origin is list and isinstance(value, list):
        items = [(f"[{i}]", below) for i, below in enumerate(value)]
    else:
        return []
    of = get_args(hint)[-1]
    return [(child, (name, *names), m) for name, below in items for child, names, m in _children(of, below)]


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint `; did you mean ...?`, or the list of what is known, for an error message."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean `{close[0]}`?"
    return "; known are " + ", ".join(f"`{name}`" for name in names) if names else ""


def ignored(name: str, patterns: Iterable[str]) -> bool:
    """Whether a feature name matches one of `patterns` (`*` at the end matches any rest)."""
    return any(name.startswith(p[:-1]) if p.endswith("*") else name == p for p in patterns)


_SPACES = re.compile(r"[\s_\-]+")


def exit_kind(text: str | None, mapping: Mapping[str, str]) -> str:
    """Map a bot's exit reason to one of `EXIT_KINDS`.

    The bot's own words come first (`mapping`: prefix, any case); then the usual spellings: `ML Exit 0.9031`,
    `STOP_LOSS`, `Emergency Max Hold`. What nobody knows is `other`.

    >>> exit_kind("ML Exit 0.9031", {})
    'ml_exit'
    """
    if text is None:
        return "other"
    folded = _SPACES.sub("_", text.strip().lower())
    for prefix, kind in mapping.items():
        if folded.startswith(_SPACES.sub("_", prefix.strip().lower())):
            return kind
    for kind in ("ml_exit", "take_profit", "stop_loss", "max_hold", "manual"):
        if kind in folded:
            return kind
    return "other"
