from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from regime.config import (
    EXIT_KINDS,
    DetectorConfig,
    EngineConfig,
    ExitRules,
    ModelConfig,
    RuleConfig,
    Section,
    config_digest,
    exit_kind,
    from_mapping,
    ignored,
    nearest,
)
from regime.errors import OperatorError


def test_nothing_given_is_the_default() -> None:
    assert from_mapping({}, EngineConfig) == EngineConfig()


def test_the_defaults_of_the_contract() -> None:
    config = EngineConfig()
    assert (config.clock, config.mode, config.preset) == ("wall", "enforce", "default")
    assert (config.stale_after, config.warmup_observations, config.auto_register) == (3, 50, True)
    assert (config.model("any").entry, config.model("any").exit) == (0.80, 0.75)


def test_the_fixed_keys_are_read() -> None:
    config = from_mapping(
        {
            "clock": "event", "mode": "shadow", "preset": "seed-rules", "stale_after": 5, "warmup_observations": 7,
            "models": {
                "btc-xgb-v3": {
                    "entry": 0.7, "exit": 1, "fee_ratio": 0.001, "trained_until": "2025-06-30",
                    "exits": {"take_profit_ratio": 0.02, "stop_loss_ratio": 0.01, "max_hold_candles": 96,
                              "exit_probability": 0.75},
                    "exit_reasons": {"TP": "take_profit"},
                },
            },
            "rules": [{"kind": "win_rate", "options": {"window": 5}}],
        },
        EngineConfig,
    )  # fmt: skip
    assert (config.clock, config.mode, config.preset) == ("event", "shadow", "seed-rules")
    assert (config.stale_after, config.warmup_observations) == (5, 7)
    model = config.model("btc-xgb-v3")
    assert (model.entry, model.exit, model.fee_ratio, model.trained_until) == (0.7, 1.0, 0.001, "2025-06-30")
    assert model.exits == ExitRules(
        take_profit_ratio=0.02, stop_loss_ratio=0.01, max_hold_candles=96, exit_probability=0.75
    )
    assert config.rules == [RuleConfig(kind="win_rate", options={"window": 5})]
    assert config.model("another") == ModelConfig()


@pytest.mark.parametrize(
    ("mapping", "key", "meant"),
    [
        ({"stale_aftr": 1}, "stale_aftr", "did you mean `stale_after`?"),
        ({"models": {"b": {"entri": 1}}}, "models.b.entri", "did you mean `entry`?"),
        ({"models": {"b": {"exits": {"stop_los_ratio": 1}}}}, "models.b.exits.stop_los_ratio", "`stop_loss_ratio`"),
        ({"rules": [{"kind": "drift"}, {"kin": "drift"}]}, "rules[1].kin", "did you mean `kind`?"),
        ({"detectors": [{"zzz": "ks"}]}, "detectors[0].zzz", "known are `kind`, `options`"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(mapping: dict[str, Any], key: str, meant: str) -> None:
    with pytest.raises(OperatorError) as caught:
        from_mapping(mapping, EngineConfig, source="regime.toml")
    assert str(caught.value).startswith(f"regime.toml: unknown key `{key}`")
    assert meant in str(caught.value)


@pytest.mark.parametrize(
    ("mapping", "key", "expected"),
    [
        ({"stale_after": 0}, "stale_after", "expected a whole number >= 1"),
        ({"stale_after": 1.5}, "stale_after", "expected a whole number"),
        ({"stale_after": "3"}, "stale_after", "expected a whole number"),
        ({"mode": "shadw"}, "mode", "did you mean `shadow`?"),
        ({"clock": 1}, "clock", "expected a text in quotes"),
        ({"clock": "sun"}, "clock", "known are `event`, `wall`"),
        ({"require_observations": 1}, "require_observations", "expected true or false"),
        ({"probation_size": 1.1}, "probation_size", "expected a number <= 1.0"),
        ({"models": 3}, "models", "expected a section"),
        ({"models": {"b": 3}}, "models.b", "expected a section"),
        ({"models": {"b": {"entry": 80}}}, "models.b.entry", "expected a number <= 1.0"),
        ({"models": {"b": {"entry": math.nan}}}, "models.b.entry", "finite"),
        ({"models": {"b": {"trained_until": "June"}}}, "models.b.trained_until", "matching"),
        ({"models": {"b": {"exits": {"stop_loss_ratio": -1}}}}, "models.b.exits.stop_loss_ratio", "> 0.0"),
        ({"models": {"b": {"exits": {"take_profit_ratio": math.inf}}}}, "models.b.exits.take_profit_ratio", "finite"),
        ({"models": {"b": {"exits": {"max_hold_candles": 0}}}}, "models.b.exits.max_hold_candles", ">= 1"),
        ({"models": {"b": {"exit_reasons": {"tp": "take-profit"}}}}, "models.b.exit_reasons.tp", "`take_profit`"),
        ({"models": {"b": {"exit_reasons": {"tp": 3}}}}, "models.b.exit_reasons.tp", "expected a text in quotes"),
        ({"models": {"b": {"ignore_features": "x"}}}, "models.b.ignore_features", "expected a list in [ ]"),
        ({"models": {"b": {"ignore_features": [3]}}}, "models.b.ignore_features[0]", "expected a text in quotes"),
        ({"rules": 3}, "rules", "expected a list in [ ]"),
        ({"rules": [3]}, "rules[0]", "expected a section"),
        ({"rules": [{}]}, "rules[0]", "`kind`"),
        ({"rules": [{"kind": "drift", "options": {"x": [1]}}]}, "rules[0].options.x", "true or false or"),
        ({"rules": [{"kind": "drift", "options": {"x": math.nan}}]}, "rules[0].options.x", "finite"),
        ({"detectors": [{"kind": 1}]}, "detectors[0].kind", "expected a text in quotes"),
    ],
)
def test_a_wrong_value_names_its_key_and_what_was_expected(mapping: dict[str, Any], key: str, expected: str) -> None:
    with pytest.raises(OperatorError) as caught:
        from_mapping(mapping, EngineConfig, source="regime.toml")
    assert str(caught.value).startswith(f"regime.toml: `{key}`: ")
    assert expected in str(caught.value)


class _Needed(Section, frozen=True, kw_only=True):
    name: str


def test_a_key_that_must_be_given_is_named() -> None:
    with pytest.raises(OperatorError, match=r"`the top level`: .*`name`"):
        from_mapping({}, _Needed)


# -- the digest ------------------------------------------------------------------------------------------------------

OTHER: dict[str, Any] = {
    "preset": "seed-rules", "mode": "shadow", "clock": "event", "stale_after": 4, "warmup_observations": 51,
    "require_observations": False, "auto_register": False, "extra_features": "ignore", "cooldown_candles": 13,
    "false_alarm_days": 7.0, "streams_expected": 3, "false_pause_trades": 500.0,
    "probation_candles": 49, "probation_size": 0.4, "detectors": [], "rules": [], "models": {"m": ModelConfig()},
}  # fmt: skip
OTHER_MODEL: dict[str, Any] = {
    "entry": 0.81, "exit": 0.76, "fee_ratio": 0.0, "trained_until": "2025-01-01",
    "exits": ExitRules(exit_probability=0.5), "exit_reasons": {"a": "other"}, "ignore_features": ["a"],
    "payoff_ratio": 1.5,
}  # fmt: skip


def test_every_field_is_tried_below() -> None:
    assert set(OTHER) == set(EngineConfig.__struct_fields__)
    assert set(OTHER_MODEL) == set(ModelConfig.__struct_fields__)


@pytest.mark.parametrize("name", OTHER)
def test_another_value_is_another_digest(name: str) -> None:
    assert config_digest(EngineConfig(**{name: OTHER[name]})) != config_digest(EngineConfig())


@pytest.mark.parametrize("name", OTHER_MODEL)
def test_another_value_of_a_model_is_another_digest(name: str) -> None:
    changed = EngineConfig(models={"m": ModelConfig(**{name: OTHER_MODEL[name]})})
    assert config_digest(changed) != config_digest(EngineConfig(models={"m": ModelConfig()}))


@pytest.mark.parametrize("name", ["take_profit_ratio", "stop_loss_ratio", "max_hold_candles", "exit_probability"])
def test_another_exit_rule_is_another_digest(name: str) -> None:
    def digest(rules: ExitRules) -> str:
        return config_digest(EngineConfig(models={"m": ModelConfig(exits=rules)}))

    assert digest(ExitRules(**{name: 1})) != digest(ExitRules())  # type: ignore[arg-type]


def test_another_option_is_another_digest_and_its_order_is_none() -> None:
    def digest(**options: Any) -> str:
        return config_digest(EngineConfig(rules=[RuleConfig(kind="drift", options=options)]))

    assert len({digest(), digest(a=1), digest(a=2), digest(b=1), digest(a=1, b=2)}) == 5
    assert digest(a=1, b=2) == digest(b=2, a=1)
    detectors = EngineConfig(detectors=[DetectorConfig(kind="ks", options={"window": 9})])
    assert config_digest(detectors) != config_digest(EngineConfig(detectors=[DetectorConfig(kind="ks")]))


def test_the_order_of_models_is_none() -> None:
    one, two = ModelConfig(entry=0.1), ModelConfig(entry=0.2)
    assert config_digest(EngineConfig(models={"a": one, "b": two})) == config_digest(
        EngineConfig(models={"b": two, "a": one})
    )


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(AttributeError):
        EngineConfig().mode = "shadow"  # type: ignore[misc]


# -- small words -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "patterns", "expected"),
    [
        ("rsi", [], False), ("rsi", ["rsi"], True), ("rsi_14", ["rsi"], False), ("rsi_14", ["rsi*"], True),
        ("rsi", ["rsi*"], True), ("x_rsi", ["rsi*"], False), ("any", ["*"], True), ("b", ["a", "b"], True),
    ],
)  # fmt: skip
def test_a_star_at_the_end_matches_any_rest(name: str, patterns: list[str], expected: bool) -> None:
    assert ignored(name, patterns) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "other"), ("", "other"), ("ml_exit", "ml_exit"), ("ML Exit 0.9031", "ml_exit"),
        ("STOP_LOSS", "stop_loss"), ("stop-loss", "stop_loss"), (" Take  Profit ", "take_profit"),
        ("Emergency Max Hold", "max_hold"), ("manual", "manual"), ("other", "other"), ("liquidated", "other"),
    ],
)  # fmt: skip
def test_usual_spellings_of_exit_reasons_are_known(text: str | None, expected: str) -> None:
    assert exit_kind(text, {}) == expected
    assert expected in EXIT_KINDS


def test_the_bots_own_words_come_first() -> None:
    mapping = {"signal": "ml_exit", "ML exit forced": "manual"}
    assert exit_kind("Signal_exit", mapping) == "ml_exit"
    assert exit_kind("ml_exit_forced by me", mapping) == "manual"
    assert exit_kind("ml_exit", mapping) == "ml_exit"


def test_nothing_known_gives_no_hint() -> None:
    assert nearest("x", []) == ""


def test_the_presets_words_are_the_plans() -> None:
    from regime.policy import PRESETS

    rules = {rule.kind: rule.options for rule in PRESETS["seed-rules"].rules}
    assert (rules["win_rate"]["window"], rules["win_rate"]["limit"], rules["win_rate"]["entry"]) == (10, 0.5, 0.85)
    assert rules["drawdown"]["limit"] == 0.1
    assert (rules["ml_exit"]["limit"], rules["ml_exit"]["exit"]) == (0.7, 0.8)
    assert msgspec.to_builtins(PRESETS["default"].detectors)[0]["kind"] == "calibrated"


def test_a_candle_longer_than_the_budget_affords_an_alarm_each() -> None:
    config = EngineConfig(false_alarm_days=30.0)
    assert config.rows_per_false_alarm(300_000, 0.5) == 17_280
    assert config.rows_per_false_alarm(9999 * 30 * 86_400_000, 0.5) == 1.0
