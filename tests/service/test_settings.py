"""Settings: one documented file, and errors that name the key."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from regime.config import EngineConfig, ExitRules, ModelConfig, Section
from regime.errors import OperatorError
from regime_service.logs import LogMapping, TradeMapping
from regime_service.settings import LogsSection, ServerSection, Settings, StoreSection, from_toml, load

EXAMPLE = Path(__file__).parents[2] / "service" / "config.example.toml"


def example() -> dict[str, Any]:
    return tomllib.loads(EXAMPLE.read_text("utf-8"))


def test_the_example_is_read_and_shows_the_defaults() -> None:
    shown = from_toml(example(), source="example")
    defaults = Settings(engine=EngineConfig(models={"my-model": ModelConfig()}))
    assert shown == defaults


@pytest.mark.parametrize(
    "section",
    [EngineConfig, ModelConfig, ExitRules, ServerSection, StoreSection, LogsSection, LogMapping, TradeMapping],
)
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
    for line in text.splitlines():
        if (found := re.match(r"# ?(\w+) = ", line)) is not None:
            assert found[1] in fields, line


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
        ('[[rules]]\nkind = "drawdown"\noptions = { limt = 0.1 }', "unexpected keyword argument 'limt'"),
        ('[[rules]]\nkind = "drawdown"\noptions = { limit = 7.0 }', "limit must be a number between 0 and 1"),
        ('[[detectors]]\nkind = "kss"', "there is no detector 'kss'"),
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

    for section in (EngineConfig, ModelConfig, ExitRules, ServerSection, StoreSection):
        source = inspect.getsource(section)
        for name in get_type_hints(section):
            if name in section.__struct_fields__ and name not in ("detectors", "rules", "models", "exits"):
                assert re.search(rf"    {name}: [^\n]*\n    \"\"\"", source), (section.__name__, name)
    assert get_args(get_type_hints(EngineConfig)["preset"]) == ("default", "seed-rules", "conservative")
