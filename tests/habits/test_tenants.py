"""Invoices of many companies, each with a database file of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from tests.habits.halves import HALVES, running, said
from tests.support.sites import warnings_in

TENANTS = ["acme", "zenith"]


@contextmanager
def tenants(half: str, folder: Path, patience: float = 5.0) -> Iterator[Flask]:
    folder.mkdir()
    config = {"FOLDER": str(folder), "TENANTS": TENANTS, "PATIENCE": patience}
    with running("tenants", half, config) as app:
        assert app.test_cli_runner().invoke(args=["init-tenants"]).exit_code == 0
        yield app


def stored(folder: Path) -> list[Any]:
    rows: list[Any] = []
    for tenant in TENANTS:
        with closing(sqlite3.connect(folder / f"{tenant}.db")) as connection:
            rows += connection.execute("SELECT name, number, cents FROM customer JOIN invoice")
    return rows


def bill(app: Flask) -> list[Any]:
    client = app.test_client()
    places = [("acme", "Ann"), ("acme", "Bob"), ("acme", "Ann"), ("zenith", "Ann")]
    answers = [client.post(f"/{place}/customers", data={"name": name}) for place, name in places]
    answers += [
        client.post("/acme/invoices", data={"customer": 1, "cents": cents}) for cents in (995, 1050)
    ]
    answers += [client.post("/acme/invoices", data={"customer": 1, "cents": "x"})]
    answers += [client.get("/acme/customers?like=B"), client.get("/zenith/customers")]
    answers += [client.get("/acme/invoices.csv"), client.get("/zenith/invoices.csv")]
    answers += [client.get("/nobody/invoices.csv")]
    return [said(answer) for answer in answers]


def test_tenants_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Both halves answer the same, and store it in the same files."""
    results = {}
    for half in HALVES:
        with tenants(half, tmp_path / half) as app:
            answers = bill(app)
        results[half] = answers, stored(tmp_path / half)
    assert results["after"] == results["before"]
    answers, rows = results["after"]
    assert [status for status, _ in answers[:7]] == [201, 201, 409, 201, 201, 201, 201]
    assert answers[-3:-1] == [(200, "1001,Ann,9.95\n1002,Ann,10.50\n1003,Ann,0.00\n"), (200, "")]
    assert rows[0] == ("Ann", 1001, 995)
    assert warnings_in(caplog) == []


def test_tenants_export(tmp_path: Path) -> None:
    """An export that somebody was downloading kept the company from writing invoices."""
    statuses = {}
    for half in HALVES:
        with tenants(half, tmp_path / half, patience=0.1) as app:
            bill(app)
            client = app.test_client()
            with client.get("/acme/invoices.csv") as download:
                chunks = download.iter_encoded()
                assert next(chunks) == b"1001,Ann,9.95\n"
                answer = client.post("/acme/invoices", data={"customer": 2, "cents": 1})
                statuses[half] = answer.status_code
                list(chunks)
    assert statuses == {"before": 500, "after": 201}
