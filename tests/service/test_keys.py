"""Keys: what is kept of them, who may change the file, and that a running service keeps up with it."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from pathlib import Path

import pytest

from regime.errors import OperatorError
from regime_service import cli, keys
from regime_service.keys import Key, KeyRing, RedactingFormatter, create, holds_key, read, redact, revoke


class Clock:
    s = 0.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.keys.json"


def test_a_key_has_256_bits_and_only_its_sha256_is_kept(path: Path) -> None:
    key, token = create(path, name="bot", scopes=["ingest"])
    assert re.fullmatch(rf"rgk_{key.id}_[A-Za-z0-9_-]{{43}}", token)
    kept = path.read_text()
    assert token not in kept
    assert token[13:] not in kept
    assert json.loads(kept)["keys"][0]["sha256"] == hashlib.sha256(token.encode()).hexdigest()
    assert path.stat().st_mode & 0o777 == 0o600
    assert create(path, name="bot", scopes=["ingest"])[1] != token
    assert [p.name for p in path.parent.iterdir()] == [path.name], "something was left behind"


def test_the_right_key_is_found_and_nothing_else_is(path: Path) -> None:
    (key, token), (other, second) = (create(path, name=name, scopes=["read"]) for name in "ab")
    ring = KeyRing(path)
    assert ring.find(token) == key
    assert ring.find(second) == other
    swapped = f"rgk_{key.id}_{second[13:]}"
    wrong_end = token[:-1] + ("A" if token[-1] != "A" else "B")
    for wrong in (swapped, wrong_end, token[:-1], token + "A", token.upper(), "", "é" * 56, "rgk_aaaaaaaa_" + "A" * 43):
        assert ring.find(wrong) is None, wrong


def test_scopes_are_steps() -> None:
    def may(*scopes: keys.AccessScope) -> list[bool]:
        key = Key(id="aaaaaaaa", name="n", scopes=list(scopes), sha256="0" * 64, created="")
        return [key.allows(scope) for scope in keys.SCOPES]

    assert may("read") == [True, False, False]
    assert may("ingest") == [True, True, False]
    assert may("admin") == [True, True, True]
    assert may("read", "ingest") == [True, True, False]


def test_a_revoked_key_is_known_as_such_and_stays_revoked(path: Path) -> None:
    key, token = create(path, name="bot", scopes=["ingest"])
    first = revoke(path, key.id)
    assert first.revoked is not None
    assert revoke(path, token) == first, "the whole key means that key"
    found = KeyRing(path).find(token)
    assert found is not None
    assert found.revoked == first.revoked
    with pytest.raises(OperatorError, match="no key has the id 'nobody'"):
        revoke(path, "nobody")


def test_revoking_the_last_key_locks_the_door_instead_of_opening_it(path: Path) -> None:
    assert KeyRing(path).open
    key, _ = create(path, name="bot", scopes=["ingest"])
    assert KeyRing(path).usable
    revoke(path, key.id)
    ring = KeyRing(path)
    assert not ring.open
    assert not ring.usable


def test_a_running_service_notices_a_change_within_a_second_and_looks_no_oftener(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    ring = KeyRing(path, clock=clock)
    looks: list[Path] = []
    honest = keys._signature
    monkeypatch.setattr(keys, "_signature", lambda p: looks.append(p) or honest(p))
    monkeypatch.setattr(keys, "read", lambda p: pytest.fail("read although nothing changed"))
    for clock.s in (0.1, 0.5, 0.9, 1.0, 1.1, 1.9, 2.0):
        ring.look()
    assert len(looks) == 2
    monkeypatch.undo()
    key, token = create(path, name="bot", scopes=["read"])
    clock.s = 2.9
    ring.look()
    assert ring.open
    clock.s = 3.0
    ring.look()
    assert not ring.open
    assert ring.find(token) == key
    revoke(path, key.id)
    clock.s = 4.0
    ring.look()
    found = ring.find(token)
    assert found is not None
    assert found.revoked


@pytest.mark.parametrize("how", ["deleted", "emptied", "damaged", "open to others"])
def test_a_file_that_is_lost_or_damaged_lets_nobody_in_until_it_is_mended(path: Path, how: str) -> None:
    _, token = create(path, name="bot", scopes=["read"])
    kept, clock = path.read_bytes(), Clock()
    ring = KeyRing(path, clock=clock)
    match how:
        case "deleted":
            path.unlink()
        case "emptied":
            path.write_text('{"version": 1, "keys": []}')
        case "damaged":
            path.write_bytes(kept[:-20])
        case _:
            path.chmod(0o660)
    clock.s = 1.0
    ring.look()
    assert not ring.open
    assert ring.fault is not None
    assert str(path) in ring.fault
    clock.s = 2.0
    ring.look()
    assert ring.fault is not None, "looking again does not mend it"
    path.unlink(missing_ok=True)
    path.touch(0o600)
    path.write_bytes(kept)
    clock.s = 3.0
    ring.look()
    assert ring.fault is None
    assert ring.find(token) is not None


def test_an_open_service_is_locked_by_a_damaged_file_and_opens_when_that_goes(path: Path) -> None:
    clock = Clock()
    ring = KeyRing(path, clock=clock)
    path.touch(0o600)
    path.write_text("{")
    clock.s = 1.0
    ring.look()
    assert (ring.open, ring.fault is None) == (False, False)
    path.unlink()
    clock.s = 2.0
    ring.look()
    assert (ring.open, ring.fault) == (True, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged"),
        (b'{"keys": [{"id": "x"}]}', "is damaged"),
        (b'{"version": 2, "keys": []}', "is damaged"),
        (b'{"kees": []}', "is damaged"),
        (b"\xff", "is damaged"),
        (b" " * (keys.FILE_BYTES_MAX + 1), "larger than"),
    ],
)
def test_a_file_that_is_no_keys_file_is_refused_at_the_start(path: Path, content: bytes, message: str) -> None:
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(OperatorError, match=message):
        KeyRing(path)


def test_a_file_that_others_may_write_is_refused_and_one_they_may_read_is_warned_of(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    create(path, name="bot", scopes=["read"])
    path.chmod(0o644)
    assert len(read(path)) == 1
    assert "chmod 600" in caplog.text
    path.chmod(0o602)
    with pytest.raises(OperatorError, match="may be written by others"):
        read(path)


def test_a_folder_in_the_place_of_the_file_and_a_missing_folder_are_said(path: Path) -> None:
    with pytest.raises(OperatorError, match="cannot be opened"):
        create(path / "no" / "such", name="bot", scopes=["read"])
    path.mkdir(0o700)
    with pytest.raises(OperatorError, match="cannot be read"):
        read(path)


def test_the_same_id_twice_is_refused(path: Path) -> None:
    create(path, name="bot", scopes=["read"])
    both = json.loads(path.read_text())
    both["keys"] *= 2
    path.write_text(json.dumps(both))
    with pytest.raises(OperatorError, match="same id"):
        read(path)


def test_keys_made_at_the_same_time_are_all_kept(path: Path) -> None:
    threads = [threading.Thread(target=create, args=(path,), kwargs={"name": str(i), "scopes": ["read"]})
               for i in range(12)]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key.name for key in read(path)) == sorted(map(str, range(12)))


def test_there_are_not_more_keys_than_a_service_will_hold(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "KEYS_MAX", 1)
    create(path, name="bot", scopes=["read"])
    with pytest.raises(OperatorError, match="holds 1 keys"):
        create(path, name="bot", scopes=["read"])


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 129, "rgk_abcdefgh_" + "s" * 43])
def test_a_name_is_for_people(path: Path, name: str) -> None:
    with pytest.raises(OperatorError, match="name of a key"):
        create(path, name=name, scopes=["read"])
    assert not path.exists()


def test_a_log_line_holds_no_key_wherever_it_came_from(path: Path) -> None:
    key, token = create(path, name="bot", scopes=["read"])
    formatter = RedactingFormatter("%(message)s")
    try:
        raise ValueError(f"bad {token}")
    except ValueError as error:
        record = logging.LogRecord("n", 40, "f", 1, "seen %s", (token,), (ValueError, error, error.__traceback__))
    text = formatter.format(record)
    assert token[13:] not in text
    assert text.count(f"rgk_{key.id}_***") == 2
    assert redact("no key here") == "no key here"
    # Whoever quotes a value cuts it short before it comes here; what is left is still most of a key.
    for length in (14, 20, 40, 55):
        assert redact(f"got {token[:length]!r}") == f"got 'rgk_{key.id}_***'"
    assert holds_key(f"?x={token}&y")
    assert not holds_key("rgk_")


# --- the command line ---


def test_create_prints_the_key_once_and_alone(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["keys", "create", "--scope", "ingest", "--keys", str(path)]) == 0
    said = capsys.readouterr()
    token = said.out.strip()
    assert KeyRing(path).find(token) is not None
    assert token not in said.err
    assert "shown this once" in said.err
    for arguments in (["list"], ["list", "--json"], ["revoke", token[4:12]], ["revoke", "--json", token[4:12]]):
        assert cli.main(["keys", *arguments, "--keys", str(path)]) == 0
        said = capsys.readouterr()
        assert token[4:12] in said.out
        assert token not in said.out + said.err
        assert read(path)[0].sha256 not in said.out + said.err
    assert cli.main(["keys", "list", "--keys", str(path)]) == 0
    assert "revoked 20" in capsys.readouterr().out


def test_create_as_json_names_scopes_in_order(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--scope", "ingest", "--scope", "read", "--name", "Köln", "--json", "--keys", str(path)]
    assert cli.main(["keys", "create", *arguments]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["scopes"], made["name"], made["revoked"]) == (["read", "ingest"], "Köln", None)
    assert "sha256" not in made


def test_keys_stand_beside_the_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["keys", "create", "--scope", "read", "--store", str(tmp_path / "mine.db")]) == 0
    assert (tmp_path / "mine.keys.json").exists()
    assert cli.main(["keys", "list", "--store", str(tmp_path / "other.db")]) == 0
    assert "no keys" in capsys.readouterr().err
    assert cli.main(["keys", "revoke", "x", "--store", str(tmp_path / "mine.db")]) == 2
    assert "no key has the id" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["create"], ["create", "--scope", "write"], [], ["revoke"]])
def test_wrong_usage_is_exit_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["keys", *arguments])
    assert ended.value.code == 2
