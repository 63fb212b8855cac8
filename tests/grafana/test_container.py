"""The container, as far as it can be proved without Docker: what the files say, and the image's own steps in a folder.

`REGIME_CONTAINER_LOCKED=1` installs every locked package anew, as the image does (some 200 MB); without it the packages
of this environment stand in for them, and everything else is the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from regime_service.cli import main
from regime_service.keys import KeyRing
from regime_service.settings import load

REPO = Path(__file__).parents[2]
GRAFANA = REPO / "grafana"
BIN = Path(sys.executable).parent
USER = 10001
LOCKED = os.environ.get("REGIME_CONTAINER_LOCKED") == "1"
WAIT_S = 2_400 if LOCKED else 600


class Instruction(NamedTuple):
    word: str
    rest: str

    def command(self) -> list[str]:
        """Its words, whether it is written as a list or for a shell."""
        found: list[str] = json.loads(self.rest) if self.rest.startswith("[") else ["sh", "-ec", self.rest]
        return found


def instructions(text: str) -> list[Instruction]:
    lines = re.sub(r"(?m)^\s*#.*\n", "", text).replace("\\\n", " ").splitlines()
    return [Instruction(*line.split(maxsplit=1)) for line in lines if line.strip()]


def stages() -> list[list[Instruction]]:
    found: list[list[Instruction]] = []
    for instruction in instructions((REPO / "Dockerfile").read_text("utf-8")):
        if instruction.word == "FROM":
            found.append([])
        found[-1].append(instruction)
    return found


def only(stage: list[Instruction], word: str) -> Instruction:
    [found] = [instruction for instruction in stage if instruction.word == word]
    return found


def environment(stage: list[Instruction]) -> dict[str, str]:
    return dict(item.split("=", 1) for i in stage if i.word == "ENV" for item in shlex.split(i.rest))


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, timeout=WAIT_S, **options
    )


# --- what the files say -----------------------------------------------------------------------------------------------


def hadolint(file: Path) -> subprocess.CompletedProcess[str]:
    return run(BIN / "hadolint", "--failure-threshold", "info", file)


def test_hadolint_finds_nothing_to_say() -> None:
    said = hadolint(REPO / "Dockerfile")
    assert (said.returncode, said.stdout) == (0, "")


def test_hadolint_would_have_said_something(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /tmp && sudo pip install x\n")
    assert hadolint(tmp_path / "Dockerfile").returncode != 0


def test_two_stages_and_nobody_is_root_in_the_second() -> None:
    build, runtime = stages()
    assert build[0].rest.endswith(" AS build")
    words = [instruction.word for instruction in runtime]
    assert only(runtime, "USER").rest == f"{USER}:{USER}"
    assert words.index("USER") < words.index("CMD") and words.index("USER") < words.index("VOLUME")
    assert f"--uid {USER}" in runtime[1].rest
    assert "--require-hashes -r requirements.lock" in " ".join(i.rest for i in build)
    assert only(runtime, "COPY").rest.startswith("--from=build "), "nothing but what was built comes into the image"


def test_what_is_copied_is_there_and_let_through_to_docker() -> None:
    ignored = (REPO / ".dockerignore").read_text("utf-8").splitlines()
    for instruction in stages()[0]:
        if instruction.word == "COPY":
            for source in instruction.rest.split()[:-1]:
                assert (REPO / source).exists(), source
                assert f"!{source}" in ignored, source


def compose(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run(BIN / "docker-compose", "-f", GRAFANA / "docker-compose.yml", *arguments, env={"PATH": os.defpath})


def test_compose_reads_its_file() -> None:
    said = compose("config", "--quiet")
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


def test_compose_would_have_said_something(tmp_path: Path) -> None:
    text = (GRAFANA / "docker-compose.yml").read_text("utf-8").replace("    secrets:", "    secretz:")
    (tmp_path / "docker-compose.yml").write_text(text)
    assert run(BIN / "docker-compose", "-f", tmp_path / "docker-compose.yml", "config", "--quiet").returncode != 0


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(compose("config", "--format", "json").stdout)
    return found


def test_everything_is_published_on_loopback_only(composed: dict[str, Any]) -> None:
    for name, service in composed["services"].items():
        for port in service["ports"]:
            assert port["host_ip"] == "127.0.0.1", name


def test_every_file_that_compose_mounts_is_there_but_the_secrets_which_git_ignores(composed: dict[str, Any]) -> None:
    for config in composed["configs"].values():
        assert Path(config["file"]).is_file()
    for service in composed["services"].values():
        for volume in service["volumes"]:
            assert volume["type"] == "volume" or Path(volume["source"]).is_dir()
    up = (GRAFANA / "up").read_text("utf-8")
    for secret in composed["secrets"].values():
        assert Path(secret["file"]).parent == GRAFANA / "secrets"
        assert f"secrets/{Path(secret['file']).name}" in up, "grafana/up makes it"
    assert "grafana/secrets/" in (REPO / ".gitignore").read_text("utf-8").splitlines()
    assert os.access(GRAFANA / "up", os.X_OK)
    assert run("bash", "-n", GRAFANA / "up").returncode == 0


def test_the_service_in_compose_answers_to_the_name_that_prometheus_asks_by(composed: dict[str, Any]) -> None:
    settings = load(str(GRAFANA / "regimegate.toml"), environ={})
    scraped = (GRAFANA / "prometheus.yml").read_text("utf-8")
    [name] = settings.server.hosts
    assert name in composed["services"]
    assert f"{name}:{settings.server.port}" in scraped
    assert f"/run/secrets/{composed['services']['prometheus']['secrets'][0]['source']}" in scraped
    volumes = {volume["target"] for volume in composed["services"][name]["volumes"]}
    runtime = stages()[1]
    assert only(runtime, "WORKDIR").rest in volumes
    assert str(Path(settings.store.file).parent) in volumes
    assert environment(runtime)["NUMBA_CACHE_DIR"] in volumes, "the file system of the image is read-only"


def test_keys_that_up_would_make_open_the_service_to_other_users_of_the_container(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`up` takes the key out of the JSON with sed, and lets the container's user read the file."""
    up = (GRAFANA / "up").read_text("utf-8")
    script = re.search(r"sed -n '([^']+)'", up)
    assert script is not None
    file = tmp_path / "regimegate.keys.json"
    assert main(["keys", "create", "--scope", "read", "--name", "prometheus", "--keys", str(file), "--json"]) == 0
    said = run("sed", "-n", script[1], input=capsys.readouterr().out)
    file.chmod(0o644)
    key = KeyRing(file).find(said.stdout.strip())
    assert key is not None and key.name == "prometheus"


DOCKER = """#!/bin/sh
# Stands in for Docker: notes what it was asked, and runs in the image's place what would run in a container.
echo "$*" >> "$ASKED"
if [ "$1" = run ]; then
    while [ "$1" != regimegate ]; do
        [ "$1" != --volume ] || folder=${2%%:*}
        shift
    done
    shift 2
    exec "$REGIME" $(echo "$*" | sed "s|/secrets|$folder|")
fi
"""


def test_up_makes_the_secrets_once_and_keeps_them(tmp_path: Path) -> None:
    folder = tmp_path / "grafana"
    folder.mkdir()
    shutil.copy(GRAFANA / "up", folder)
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    env = {
        "PATH": f"{tmp_path}:{os.defpath}", "ASKED": str(tmp_path / "asked"), "REGIME": str(BIN / "regime"),
    }  # fmt: skip
    for _ in range(2):
        said = run(folder / "up", env=env)
        assert said.returncode == 0, said.stderr
    asked = (tmp_path / "asked").read_text("utf-8").splitlines()
    assert [line.split()[:2] for line in asked].count(["compose", "up"]) == 2
    assert sum(line.startswith("run ") for line in asked) == 3, "the second time nothing is made"
    secrets = folder / "secrets"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    ring = KeyRing(secrets / "regimegate.keys.json")
    for name, scope in (("read", "read"), ("bot", "ingest"), ("operator", "admin")):
        key = ring.find((secrets / f"{name}.key").read_text("utf-8").strip())
        assert key is not None and key.scopes == [scope]
        assert (secrets / f"{name}.key").read_text("utf-8").strip() not in said.stdout, "a key is not printed"
    assert len((secrets / "grafana.password").read_text("utf-8").strip()) >= 20


@pytest.mark.parametrize(
    ("program", "arguments"),
    [("promtool", ["check", "config", "--syntax-only", "prometheus.yml"]),
     ("promtool", ["check", "rules", "rules/regimegate.rules.yml"]),
     ("amtool", ["check-config", "alertmanager.yml"])],
)  # fmt: skip
def test_prometheus_and_alertmanager_read_their_files(program: str, arguments: list[str], need: Any) -> None:
    found = shutil.which(program)
    need(found, f"{program} is missing: apt-get install prometheus prometheus-alertmanager")
    said = run(str(found), *arguments, cwd=GRAFANA)
    assert said.returncode == 0, said.stdout + said.stderr


def test_severities_of_the_rules_are_those_that_alertmanager_knows() -> None:
    rules = (GRAFANA / "rules" / "regimegate.rules.yml").read_text("utf-8")
    routes = (GRAFANA / "alertmanager.yml").read_text("utf-8")
    for severity in set(re.findall(r"severity: (\w+) }", rules)):
        assert f"- name: {severity}\n" in routes


# --- the image's steps, in a folder -----------------------------------------------------------------------------------


class Image(NamedTuple):
    """What `docker build` would have made, under a folder: `/opt/regimegate`, `/var/lib/...` and so on."""

    root: Path
    env: dict[str, str]
    uid: int

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command as the image's user, who is not root; the test's own user where that is not root either."""
        env = {**self.env, **options.pop("env", {})}
        return subprocess.Popen(
            [*as_user(self.uid), str(shutil.which(command[0], path=env["PATH"])), *command[1:]], env=env,
            cwd=self.root / "var/lib/regimegate", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
        )  # fmt: skip

    def run(self, *command: str, **options: Any) -> tuple[int, str]:
        process = self.start(*command, **options)
        out, err = process.communicate(timeout=WAIT_S)
        return process.returncode, out + err


def as_user(uid: int) -> list[str]:
    """What to put before a command so that root runs it as `uid`. Python may stand in a folder of root's (pyenv): then
    it is let look into folders that are not its own, but write into none of them."""
    if os.getuid() != 0:
        return []
    ours = [*Path(sys.executable).resolve().parents, *BIN.parents, *REPO.parents]
    closed = any(not folder.stat().st_mode & stat.S_IXOTH for folder in ours)
    look = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"] if closed else []
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *look]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """Run the instructions of the Dockerfile with `/opt`, `/src` and `/var` below a folder."""
    build, runtime = stages()
    root = tmp_path_factory.mktemp("image")
    for folder in (root, *root.parents[:2]):
        folder.chmod(0o755)  # pytest's folders are its own user's alone.

    def below(text: str) -> str:
        return re.sub(r"(?<![\w.])/(opt|src|var)\b", f"{root}/\\1", text)

    source = root / "src"
    source.mkdir()
    env = {"PATH": os.environ["PATH"], "HOME": str(root), **environment(build)}
    if "PIP_CONFIG_FILE" in os.environ:
        env["PIP_CONFIG_FILE"] = os.environ["PIP_CONFIG_FILE"]
    for word, rest in build[1:]:
        if word == "COPY":
            *names, _ = rest.split()
            for name in names:
                if (REPO / name).is_dir():
                    shutil.copytree(
                        REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "artifacts")
                    )
                else:
                    shutil.copy(REPO / name, source / name)
        elif word == "RUN":
            rest = re.sub(r"^python ", f"{sys.executable} ", rest)
            if "requirements.lock" in rest and not LOCKED:
                rest = rest.partition("&&")[0]
            said = run(
                "sh", "-ec", below(rest).replace("-m compileall -q", "-m compileall -q -j 1"), cwd=source, env=env
            )
            assert said.returncode == 0, said.stdout + said.stderr
            if "requirements.lock" in rest or rest.rstrip().endswith("/opt/regimegate"):
                [packages] = (root / "opt/regimegate/lib").glob("python*/site-packages")
                if not LOCKED:
                    own = next(BIN.parent.glob("lib/python*/site-packages"))
                    (packages / "locked.pth").write_text(f"{own}\n")
    uid = USER if os.getuid() == 0 else os.getuid()
    made = {name: below(value) for name, value in environment(runtime).items()}
    made["PATH"] = made["PATH"].replace("$PATH", os.defpath)
    for folder in re.findall(r"/var/\S+", runtime[1].rest.partition("install")[2]):
        Path(below(folder)).mkdir(parents=True, exist_ok=True)
        os.chown(below(folder), uid, uid if os.getuid() == 0 else -1)
    if not LOCKED:
        seed(root, Path(made["NUMBA_CACHE_DIR"]), uid)
    yield Image(root, made, uid)
    shutil.rmtree(root, ignore_errors=True)


def seed(root: Path, cache: Path, uid: int) -> None:
    """Give the image what this checkout has compiled already: compiling takes minutes on a busy machine. numba looks
    for it by the folder of a source file, and believes it where the file has the same age and size."""
    for file in (REPO / "regime").rglob("*.py"):
        [installed] = root.glob(f"opt/regimegate/lib/python*/site-packages/{file.relative_to(REPO)}")
        os.utime(installed, ns=(file.stat().st_mtime_ns, file.stat().st_mtime_ns))
        folder = installed.parent
        place = cache / f"{folder.name}_{hashlib.sha1(str(folder).encode()).hexdigest()}"
        for compiled in file.parent.glob(f"__pycache__/{file.stem}.*.nb[ci]"):
            place.mkdir(exist_ok=True)
            shutil.copy(compiled, place)
    for path in cache.rglob("*"):
        os.chown(path, uid, -1)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.slow
def test_the_image_serves_stores_and_is_healthy_as_a_user_who_is_not_root(image: Image) -> None:
    _, runtime = stages()
    warm = only([i for i in runtime if "warm" in i.rest], "RUN")
    code, said = image.run(*warm.command())
    assert code == 0, said
    cache = image.root / "var/cache/regimegate"
    assert any(cache.rglob("*.nbi")), "what was compiled is in the image"

    command = only(runtime, "CMD").command()
    code, said = image.run(*command)
    assert code == 2 and "without keys" in said, "on all addresses it serves nobody without keys"

    keys = image.root / "var/lib/regimegate/keys.json"
    key = new_key(image, keys)
    port = free_port()
    served = image.start(*command, "--port", str(port), env={"REGIME_KEYS": str(keys)})
    try:
        assert served.stdout is not None
        assert "answers" in served.stdout.readline()
        health = only(runtime, "HEALTHCHECK").rest.partition("CMD ")[2]
        check = [word.replace(":8080/", f":{port}/") for word in json.loads(health)]
        code, said = image.run(*check)
        assert (code, said) == (0, "")
        store = Path(image.env["REGIME_STORE"])
        assert store.stat().st_uid == image.uid
        if os.getuid() == 0:
            status = Path(f"/proc/{served.pid}/status").read_text("utf-8")
            assert f"Uid:\t{USER}\t{USER}" in status
        post = (
            "import sys, urllib.request as u; u.urlopen(u.Request(sys.argv[1], sys.argv[2].encode(), "
            "{'Content-Type': 'application/json', 'Authorization': 'Bearer ' + sys.argv[3]}), timeout=10)"
        )
        event = {"model": "m", "symbol": "S", "timeframe": "5m", "ts_ms": int(time.time() // 300 * 300_000 - 600_000),
                 "features": {"a": 1.0}}  # fmt: skip
        code, said = image.run("python", "-c", post, f"http://127.0.0.1:{port}/v1/observations", json.dumps(event), key)
        assert (code, said) == (0, "")
        served.send_signal(signal.SIGTERM)
        out, err = served.communicate(timeout=60)
        assert served.returncode == 0, out + err
        code, said = image.run(*check)
        assert code != 0, "the check of a service that is gone fails"
        code, said = image.run("regime", "verify-log", str(store))
        assert code == 0 and "1" in said
    finally:
        if served.poll() is None:
            served.kill()
            served.communicate()


def new_key(image: Image, keys: Path) -> str:
    """A key to send with. Made before the service starts: one that runs takes a second to notice."""
    code, said = image.run("regime", "keys", "create", "--scope", "ingest", "--keys", str(keys), "--json")
    assert code == 0, said
    found: str = json.loads(said[: said.index("}") + 1])["key"]
    return found


def test_the_keys_file_is_nobody_elses(image: Image) -> None:
    keys = image.root / "var/lib/regimegate/others.json"
    assert image.run("regime", "keys", "create", "--scope", "read", "--keys", str(keys))[0] == 0
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
