"""Invoices of many companies: each has a database file of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from flask import Blueprint, Flask, abort, current_app, jsonify, request
from flask.cli import with_appcontext

invoices = Blueprint("invoices", __name__, url_prefix="/<tenant>")


def connect(tenant: str) -> Any:
    path = Path(current_app.config["FOLDER"]) / f"{tenant}.db"
    conn = sqlite3.connect(path, timeout=current_app.config["PATIENCE"])
    conn.row_factory = sqlite3.Row
    return conn


@invoices.before_request
def check() -> None:
    if (request.view_args or {})["tenant"] not in current_app.config["TENANTS"]:
        abort(404)


@invoices.get("/customers")
def customers(tenant: str) -> Any:
    with closing(connect(tenant)) as conn:
        rows = conn.execute("SELECT id, name FROM customer WHERE name LIKE ?", (_pattern(),))
        return jsonify([dict(row) for row in rows])


def _pattern() -> str:
    return f"{request.args.get('like', '')}%"


@invoices.post("/customers")
def add_customer(tenant: str) -> Any:
    conn = connect(tenant)
    try:
        cur = conn.execute("INSERT INTO customer (name) VALUES (?)", (request.form["name"],))
        conn.commit()
        return {"id": cur.lastrowid}, 201
    except sqlite3.IntegrityError:
        return {"error": "There is a customer of this name."}, 409
    finally:
        conn.close()


@invoices.post("/invoices")
def add_invoice(tenant: str) -> Any:
    with closing(connect(tenant)) as conn, conn:
        (last,) = conn.execute("SELECT IFNULL(MAX(number), 1000) FROM invoice").fetchone()
        conn.execute(
            "INSERT INTO invoice VALUES (?, ?, ?)",
            (last + 1, request.form["customer"], request.form["cents"]),
        )
    return {"number": last + 1}, 201


@invoices.get("/invoices.csv")
def export(tenant: str) -> Any:
    conn = connect(tenant)

    def lines() -> Iterator[str]:
        with closing(conn):
            for row in conn.execute(
                "SELECT number, name, printf('%.2f', cents / 100.0) AS amount"
                " FROM invoice JOIN customer ON customer.id = customer_id ORDER BY number"
            ):
                yield f"{row['number']},{row['name']},{row['amount']}\n"

    return current_app.response_class(lines(), mimetype="text/csv")


@click.command("init-tenants")
@with_appcontext
def init_tenants() -> None:
    schema = Path(current_app.root_path, "schema.sql").read_text(encoding="utf-8")
    for tenant in current_app.config["TENANTS"]:
        with closing(connect(tenant)) as conn:
            conn.executescript(schema)


def create_app(config: Mapping[str, Any]) -> Flask:
    app = Flask(__name__)
    app.config.from_mapping(PATIENCE=5.0)
    app.config.from_mapping(config)
    app.register_blueprint(invoices)
    app.cli.add_command(init_tenants)
    return app
