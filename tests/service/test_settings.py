"""Settings: one documented file, and errors that name the key."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from regime.config import EngineConfig, ExitRules, ModelConfig, Section
from regime.errors import OperatorError
from regime_service.alerts import ChannelOptions, channel_class, kinds
from regime_service.logs import LogMapping, TradeMapping
from regime_service.settings import (
    AlertsSection,
    LogsSection,
    ServerSection,
    Settings,
    StoreSection,
    channel_secrets,
    from_toml,
    load,
)  # fmt: skip

EXAMPLE = Path(__file__).parents[2] / "service" / "config.example.toml"


CHANNELS = kinds()


def example() -> dict[str, Any]:
    return tomllib.loads(EXAMPLE.read_text("utf-8"))


def test_the_example_is_read_and_shows_the_defaults() -> None:
    shown = from_toml(example(), source="example")
    defaults = Settings(engine=EngineConfig(models={"my-model": ModelConfig()}))
    assert shown == defaults


@pytest.mark.parametrize(
    "section",
    [EngineConfig, ModelConfig, ExitRules, ServerSection, StoreSection, LogsSection, LogMapping, TradeMapping,
     AlertsSection],
)  # fmt: skip
def test_the_example_names_every_key(section: type[Section]) -> None:
    text = EXAMPLE.read_text("utf-8")
    for key in section.__struct_fields__:
        assert re.search(rf"(?m)^(# )?\[*([\w-]+\.)*{key}(\]| = |\.)", text), key


def test_every_key_of_the_example_that_is_commented_out_is_a_real_one() -> None:
    text = EXAMPLE.read_text("utf-8")
    fields = {
        name for s in (ModelConfig, ExitRules, StoreSection, LogMapping, TradeMapping) for name in s.__struct_fields__
    }
    fields |= {"kind", "options"}
    fields |= {name for kind in CHANNELS for name in channel_class(kind).OPTIONS.__struct_fields__}
    for line in text.splitlines():
        if (found := re.match(r"# ?(\w+) = ", line)) is not None:
            assert found[1] in fields, line


SLACK = "[[alerts.channels]]\nname = 'x'\nkind = 'slack'\nurl_env = 'A'\n{}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stale_aftr = 3", "unknown key `stale_aftr`; did you mean `stale_after`?"),
        ("[models.m]\nentri = 0.8", "unknown key `models.m.entri`; did you mean `entry`?"),
        ("[models.m.exits]\nstop_los = 0.8", "unknown key `models.m.exits.stop_los`; did you mean `stop_loss_ratio`?"),
        ("[server]\nprot = 1", "unknown key `prot`; did you mean `port`?"),
        ("[models.m]\nentry = 1.5", "`models.m.entry`: expected a number <= 1.0"),
        ("stale_after = 0", "`stale_after`: expected a whole number >= 1"),
        ("[logs.features]\ntmie = 'x'", "did you mean `time`?"),
        ('[[rules]]\nkind = "drawdwn"', "there is no rule 'drawdwn'"),
        (
            '[[rules]]\nkind = "drawdown"\noptions = { limt = 0.1 }',
            "has no option `limt`; did you mean `limit`?",
        ),
        ('[[rules]]\nkind = "drawdown"\noptions = { limit = 7.0 }', "limit must be a number between 0 and 1"),
        ('[[detectors]]\nkind = "kss"', "there is no detector 'kss'"),
        ("[alerts]\nrepet_after_hours = 1", "unknown key `repet_after_hours`; did you mean `repeat_after_hours`?"),
        ("[alerts]\nquiet_hours = '25:00-07:00'", "`quiet_hours`"),
        ("[alerts]\ntimezone = 'Europe/Nowhere'", "there is no time zone 'Europe/Nowhere'"),
        ("[alerts]\npublic_url = 'regime.example.org'", "`public_url` is no address"),
        ("[alerts]\ngive_up_after_hours = 0", "`give_up_after_hours`: expected a number > 0"),
        ("[alerts.channels]\nname = 'x'", "write [[alerts.channels]] over each"),
        ("[[alerts.channels]]\nname = 'x'", "[[alerts.channels]] x: `kind` is missing"),
        ("[[alerts.channels]]\nname = 'x'\nkind = 'pigeon'", "there is no channel of kind 'pigeon'; known are apprise"),
        ("[[alerts.channels]]\nname = 'x'\nkind = 'outbox'", "there is no channel of kind 'outbox'"),
        ("[[alerts.channels]]\nkind = 'slack'\nurl_env = 'A'", "[[alerts.channels]] number 1: "),
        ("[[alerts.channels]]\nname = 'x'\nkind = 'slack'", "it needs `url_env` or `url_file`"),
        (SLACK.format("token = 'abc'"), "[[alerts.channels]] x: unknown key `token`"),
        (SLACK.format("url = 'https://h/'"), "unknown key `url`; did you mean `url_env`?"),
        (SLACK.format("timeout_s = 0"), "`timeout_s`: expected a number >= 0.1"),
        (SLACK.format("") * 2, "two channels are called 'x'"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "my.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(OperatorError) as refused:
        load(str(file), environ={})
    assert message in str(refused.value)
    assert "my.toml" in str(refused.value)


def test_flags_are_stronger_than_variables_and_those_than_the_file(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('mode = "shadow"\n[server]\nport = 1\nhost = "::1"\n', "utf-8")
    environ = {"REGIME_PORT": "2", "REGIME_CONFIG": str(file)}
    assert load(environ=environ).server.port == 2
    assert load(environ=environ, flags={"port": 3, "host": None}).server == ServerSection(port=3, host="::1")
    assert load(environ={**environ, "REGIME_MODE": "enforce"}).engine.mode == "enforce"


def test_a_variable_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="port"):
        load(environ={"REGIME_PORT": "eighty"})


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), (b"a = ", "not valid TOML"), (b"\xff", "not UTF-8")],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "my.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(OperatorError, match=message):
        load(str(file), environ={})


def test_every_key_has_a_sentence_in_the_code() -> None:
    """The attribute docstrings are what the docs are made of."""
    import inspect

    channels = [channel_class(kind).OPTIONS for kind in CHANNELS]
    for section in (EngineConfig, ModelConfig, ExitRules, ServerSection, StoreSection, AlertsSection, *channels):
        source = inspect.getsource(section) + inspect.getsource(ChannelOptions)
        for name in get_type_hints(section):
            if name in section.__struct_fields__ and name not in ("detectors", "rules", "models", "exits"):
                assert re.search(rf"    {name}: [^\n]*\n    \"\"\"", source), (section.__name__, name)
    assert get_args(get_type_hints(EngineConfig)["preset"]) == ("default", "seed-rules", "conservative")


def test_every_option_of_every_channel_stands_in_the_example() -> None:
    text = EXAMPLE.read_text("utf-8")
    for kind in CHANNELS:
        assert re.search(rf'(?m)^# kind = "{kind}"', text)
        for key in channel_class(kind).OPTIONS.__struct_fields__:
            assert re.search(rf"\b{key}\b", text), (kind, key)


def test_the_channels_of_the_example_are_right_once_they_are_read() -> None:
    text = EXAMPLE.read_text("utf-8")
    block = text[text.index("# [[alerts.channels]]") : text.index("# --- how your own files")]
    alternatives = ("token_file", "timeout_s = 10.0", "ca_file")
    lines = [line.removeprefix("# ") for line in block.splitlines() if not any(a in line for a in alternatives)]
    read = from_toml(tomllib.loads("\n".join(line for line in lines if line != "#")), source="example")
    assert [one.kind for one in read.alerts.channels] == ["telegram", "webhook", "slack", "email", "apprise"]
    assert sorted(one.kind for one in read.alerts.channels) == CHANNELS


def slack(**changes: Any) -> Any:
    channel = {"name": "x", "kind": "slack", **changes}
    return from_toml({"alerts": {"channels": [channel]}}, source="test").alerts.channels[0]


def test_secrets_come_from_a_variable_or_a_file_and_from_there_only(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("https://h/SECRET\n", "utf-8")
    for options, environ in ((slack(url_env="A"), {"A": " https://h/SECRET "}), (slack(url_file=str(file)), {})):
        secrets = channel_secrets(options, environ)
        assert secrets.need("url") == "https://h/SECRET"
        assert "SECRET" not in repr(secrets) + repr(options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url_env": "A"}, "url_env = 'A': the variable is not set, or empty"),
        ({"url_env": "B"}, "url_env = 'B': the variable is not set, or empty"),
        ({"url_file": "/no/such/file"}, "the file cannot be read: No such file"),
        ({"url_file": "/dev/null"}, "the file is empty"),
        ({"url_env": "C", "url_file": "/dev/null"}, "its url has two places"),
    ],
)
def test_a_secret_that_is_not_there_is_named_by_its_place(changes: dict[str, str], message: str) -> None:
    with pytest.raises(OperatorError) as refused:
        channel_secrets(slack(**changes), {"B": " ", "C": "https://h/SECRET"})
    assert f"alert channel 'x': {message}" in str(refused.value) or message in str(refused.value)
    assert "SECRET" not in str(refused.value)


def test_a_configuration_can_be_read_where_its_secrets_are_not() -> None:
    """`regime replay` with the service's file, on another machine."""
    assert slack(url_env="NOT_SET_ANYWHERE").url_env == "NOT_SET_ANYWHERE"
