"""What Prometheus makes of an answer of `/metrics`."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Flask
from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]
Samples = Mapping[tuple[str, Labels], float]

POOL = "db_client_connection_pool_name"


def samples(text: str) -> Samples:
    """The samples of an answer. Each is there once."""
    found: dict[tuple[str, Labels], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def scrape(app: Flask, path: str = "/metrics") -> Samples:
    """What an app answers."""
    answer = app.test_client().get(path)
    assert answer.status_code == 200, answer.text
    return samples(answer.text)


def value(found: Samples, name: str, **labels: str) -> float:
    """The sum of the samples of this name that have these labels at least."""
    wanted = set(labels.items())
    values = [each for (one, has), each in found.items() if one == name and wanted <= has]
    assert values, f"{name} {labels} is not in {sorted(found, key=str)}"
    return sum(values)
