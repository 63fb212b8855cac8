"""A channel of one's own, by its dotted path; and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from regime.errors import OperatorError
from regime_service.alerts import Alert, Secrets, kinds, make_channel
from regime_service.settings import channel_secrets, from_toml

PIGEON = """
from pathlib import Path
from regime_service.alerts import DELIVERED, ChannelOptions

class PigeonOptions(ChannelOptions, frozen=True, kw_only=True):
    loft: str
    ring_env: str = ""
    ring_file: str = ""

class Pigeon:
    OPTIONS = PigeonOptions
    batch_max = 2

    def __init__(self, options, secrets):
        self.loft, self.ring = Path(options.loft), secrets.need("ring")

    def send(self, alerts, *, within_s):
        self.loft.write_text("; ".join(alert.subject for alert in alerts))
        return DELIVERED

class Stone:
    OPTIONS = PigeonOptions
    def __init__(self, options, secrets): pass

class Nameless:
    pass
"""
ALERT = Alert(key="rg-1", kind="paused", name="RegimePaused", at_ms=1, recorded_ms=1, subject="PAUSED", happened="h")


@pytest.fixture(autouse=True)
def pigeon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pigeon_post.py").write_text(PIGEON, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pigeon_post", raising=False)


def configured(kind: str, **changes: str) -> object:
    channel = {"name": "x", "kind": kind, "loft": "l", "ring_env": "RING", **changes}
    return from_toml({"alerts": {"channels": [channel]}}, source="test").alerts.channels[0]


def test_a_class_of_ones_own_is_configured_as_ours_are(tmp_path: Path) -> None:
    options = configured("pigeon_post.Pigeon", loft=str(tmp_path / "loft"))
    channel = make_channel(options, channel_secrets(options, {"RING": "blue"}))  # type: ignore[arg-type]
    assert channel.send([ALERT, ALERT], within_s=1.0).result == "delivered"
    assert (tmp_path / "loft").read_text("utf-8") == "PAUSED; PAUSED"


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("pigeon_post.Pigeon", {"lofft": "x"}, "unknown key `lofft`; did you mean `loft`?"),
        ("pigeon_post.Dove", {}, "there is no channel of kind 'pigeon_post.Dove'"),
        ("pigeon_post.Nameless", {}, "has no `OPTIONS`"),
    ],
)
def test_one_that_is_not_a_channel_is_refused(kind: str, changes: dict[str, str], message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        configured(kind, **changes)


def test_one_that_cannot_send_is_refused_when_it_is_made() -> None:
    with pytest.raises(OperatorError, match="Stone has no `batch_max` and `send`"):
        make_channel(configured("pigeon_post.Stone"), Secrets({}))  # type: ignore[arg-type]


def test_the_kinds_are_the_channels_of_the_folder_and_nothing_else() -> None:
    assert kinds() == ["apprise", "email", "slack", "telegram", "webhook"]
