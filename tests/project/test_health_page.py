"""docs/health.md: its HAProxy takes the servers that are ready, and its probes are Kubernetes'."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from flask import Flask

from harness.gunicorn import GunicornServer
from harness.haproxy import HAProxy
from harness.processes import PROJECT
from harness.waiting import PATIENCE, wait_until
from tests.support.health_app import APP

PAGE = (PROJECT / "docs" / "health.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """Return the page's block of a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return str(found)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[GunicornServer]]:
    """Two servers of different kinds. The directory of the second one's database is missing."""
    servers = []
    for number, kind in ((1, "sync"), (2, "gevent")):
        env = {
            "FLASK_NAME": f"shop{number}",
            "FLASK_POOLED_DB_URL": f"sqlite:///{tmp_path}/{number}/shop.db",
            "FLASK_POOLED_DB_RUNTIME_DIR": "false",
        }
        options = [APP, f"--worker-class={kind}"]
        servers.append(GunicornServer(tmp_path, options, env, ready="/healthz/live"))
    (tmp_path / "1").mkdir()
    with servers[0], servers[1]:
        yield servers


def configuration(servers: list[GunicornServer]) -> str:
    """Return the page's configuration with other ports, and a shorter interval."""
    check = "    timeout check 2s\n    default-server check inter 200ms"
    text = block("haproxy").replace(":8080", ":{port}")
    text = text.replace("    default-server check inter 2s", check)
    for port, server in zip((8000, 8001), servers, strict=True):
        assert f"127.0.0.1:{port}\n" in text
        text = text.replace(f"127.0.0.1:{port}\n", f"127.0.0.1:{server.port}\n")
    return text


def who_answers(proxy: HAProxy) -> str:
    with closing(http.client.HTTPConnection(proxy.host, proxy.port, timeout=PATIENCE)) as client:
        client.request("GET", "/name")
        answer = client.getresponse()
        return answer.read().decode() if answer.status == 200 else str(answer.status)


@pytest.mark.slow
def test_haproxy(servers: list[GunicornServer], tmp_path: Path) -> None:
    """HAProxy sends requests to the server that is ready, then to both, and to none when no one is.
    A sync worker and gevent answer alike.
    """
    with HAProxy(configuration(servers)) as proxy:
        wait_until(lambda: {who_answers(proxy) for _ in range(6)} == {"shop1"}, "the second to go")
        (tmp_path / "2").mkdir()
        wait_until(lambda: {who_answers(proxy) for _ in range(6)} == {"shop1", "shop2"}, "both")
        servers[0].stop()
        wait_until(lambda: {who_answers(proxy) for _ in range(6)} == {"shop2"}, "the first to go")


def test_paths_of_probes() -> None:
    """The paths that the page's probes ask are those of its app, and no restart depends on a
    database.
    """
    names: dict[str, object] = {"__name__": "shop"}
    exec(compile(block("python"), "docs/health.md", "exec"), names)
    app = names["app"]
    assert isinstance(app, Flask)
    rules = {rule.rule for rule in app.url_map.iter_rules()}
    asked = dict(re.findall(r"(\w+Probe):\n\s+httpGet: \{path: (\S+), port: 8000\}", block("yaml")))
    live, ready = "/healthz/live", "/healthz/ready"
    assert asked == {"startupProbe": live, "livenessProbe": live, "readinessProbe": ready}
    assert {live, ready} <= rules
    assert f"uri {ready} " in block("haproxy")
