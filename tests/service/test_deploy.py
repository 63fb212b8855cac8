"""The example of a deployment agrees with itself and with the service; the guide names things that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from regime_service.http.gate import BODIES_BYTES_MAX
from regime_service.ports import Ports
from regime_service.settings import ServerSection, from_toml

REPO = Path(__file__).parents[2]
CADDY = (REPO / "deploy" / "Caddyfile").read_text("utf-8")
GUIDE = (REPO / "docs" / "security.md").read_text("utf-8")


def test_the_proxy_asks_the_service_by_a_name_it_answers_to_and_keeps_connections_for_less() -> None:
    settings = from_toml(tomllib.loads((REPO / "deploy" / "regimegate.toml").read_text("utf-8")), source="deploy")
    site = re.search(r"(?m)^([\w.-]+) \{$", CADDY)
    assert site is not None
    assert settings.server.hosts == [site[1]]
    assert f"reverse_proxy {settings.server.host}:{settings.server.port}" in CADDY
    assert settings.server.host == "127.0.0.1"
    kept = re.search(r"keepalive (\d+)s", CADDY)
    assert kept is not None
    assert int(kept[1]) < settings.server.keep_alive_s
    assert f"max_size {Ports.reference_bytes_max // 1024**2}MiB" in CADDY
    assert CADDY.count("{") == CADDY.count("}")


def test_the_guide_states_the_figures_that_are_in_force() -> None:
    server = ServerSection()
    for said in (
        f"408 after {server.header_timeout_s:g} s ({server.body_timeout_s:g} s)", f"| {server.connections_max};",
        f"{server.requests_per_s:g} a second, {server.requests_burst} at once",
        f"from the {server.streams_max}th stream",
        f"413 over {Ports.body_bytes_max // 1024**2} MiB", f"share {BODIES_BYTES_MAX // 1024**2} MiB",
        f"{server.decode_memory_mb // 1024} GiB and two minutes",
    ):  # fmt: skip
        assert said in GUIDE, said
    assert server.decode_timeout_s == 120


def test_links_of_the_guide_lead_somewhere() -> None:
    links = re.findall(r"\]\((\.\./[^)]+)\)", GUIDE)
    assert len(links) >= 3
    for link in links:
        assert (REPO / "docs" / link).resolve().exists(), link
