"""The queries of docs/grafana.json ask for what `/metrics` tells."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from harness.processes import PROJECT
from tests.support.busy_app import busy_app
from tests.support.scrapes import scrape

DASHBOARD = json.loads((PROJECT / "docs" / "grafana.json").read_text(encoding="utf-8"))

OF_SCRAPES = {"job", "instance"}
"""Labels that Prometheus adds to each sample that it scrapes."""

FUNCTIONS = {"sum", "max", "by", "rate", "topk", "histogram_quantile"}

# Names, each with its matchers if it is a metric; texts and ranges are no names.
_NAME = re.compile(r"([a-z_]\w*)(?:\{([^}]*)\})?")
_IS_NO_NAME = re.compile(r'"[^"]*"|\[[^\]]*\]')
_BY = re.compile(r"by \(([^)]*)\)")
_LABEL = re.compile(r'(\w+)(=~|!~|=|!=)("[^"]*")')


def targets() -> Iterator[dict[str, Any]]:
    for panel in DASHBOARD["panels"]:
        yield from panel["targets"]


QUERIES = [target["expr"] for target in targets()]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The labels of each metric of an app in which everything has happened."""
    found: dict[str, set[str]] = defaultdict(set)
    with busy_app(tmp_path_factory.mktemp("busy")) as (app, _):
        for name, labels in scrape(app):
            found[name] |= {label for label, _ in labels}
    return found


def metrics_in(query: str) -> dict[str, str]:
    """The metrics that a query asks for, each with its matchers."""
    rest = _BY.sub("", query)
    found = dict(re.findall(r"([a-z_]\w*)\{([^}]*)\}", rest))
    others = _IS_NO_NAME.sub("", re.sub(r"\{[^}]*\}", "", rest))
    names = {name for name, _ in _NAME.findall(others)}
    assert names - FUNCTIONS == found.keys(), "each metric has matchers"
    return found


@pytest.mark.parametrize("query", QUERIES)
def test_queries(query: str, told: dict[str, set[str]]) -> None:
    """Each metric and each label that a query names is in a real answer; what only grows is asked
    for its rate.
    """
    assert query.count("(") == query.count(")")
    metrics = metrics_in(query)
    assert metrics
    for name, matchers in metrics.items():
        labels = told[name] | OF_SCRAPES
        assert name in told, name
        used = {label for label, _, _ in _LABEL.findall(matchers)}
        assert _LABEL.sub("", matchers).strip(", ") == ""
        assert used <= labels
        for group in _BY.findall(query):
            assert set(re.split(r",\s*", group)) <= labels
        is_counter = name.endswith(("_total", "_seconds_count", "_seconds_sum", "_seconds_bucket"))
        assert is_counter == (f"rate({name}{{" in query)


def test_all_is_shown(told: dict[str, set[str]]) -> None:
    """What is told is shown, each in one panel at least, but for the sizes that hardly change."""
    shown = {name for query in QUERIES for name in metrics_in(query)}
    sizes = {"db_client_connection_idle_max", "db_client_connection_idle_min"}
    kinds = re.compile(r"_(bucket|count|sum)$")
    families = {kinds.sub("", name) for name in shown}
    assert {kinds.sub("", name) for name in told} - families <= sizes


def test_legends() -> None:
    """A legend names what its query groups by."""
    for target in targets():
        groups = {label for group in _BY.findall(target["expr"]) for label in group.split(", ")}
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= groups


def test_datasource_is_a_variable() -> None:
    """The dashboard works with any data source: it names none."""
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    named = re.findall(r'"uid": "([^"]*)"', json.dumps(DASHBOARD["panels"]))
    assert set(named) == {"${datasource}"}
    used = set(re.findall(r"\$(\w+)", " ".join(QUERIES)))
    assert used <= variables.keys() | {"__rate_interval"}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_queries_of_variables(told: dict[str, set[str]]) -> None:
    """What a variable may be is asked of a metric and a label that there are."""
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            query = variable["query"]["query"]
            found = re.fullmatch(r"label_values\((\w+)(?:\{[^}]*\})?, (\w+)\)", query)
            assert found
            assert found[2] in told[found[1]] | OF_SCRAPES
