"""A dashboard of sensors on PostgreSQL. Cron runs this file each night."""

from __future__ import annotations

import os
from typing import Any

import psycopg2
from flask import Blueprint, Flask, abort, jsonify, request
from psycopg2.extras import RealDictCursor

conn = psycopg2.connect(os.environ["DATABASE_URL"])
conn.autocommit = True

sensors = Blueprint("sensors", __name__)


def query(sql: str, params: Any = None) -> Any:
    with conn.cursor(cursor_factory=RealDictCursor) as cur:
        cur.execute(sql, params)
        return cur.fetchall()


def execute(sql: str, params: Any = None) -> Any:
    with conn.cursor() as cur:
        cur.execute(sql, params)
        return cur.rowcount


@sensors.get("/")
def index() -> Any:
    return jsonify(
        query(
            "SELECT DISTINCT ON (sensor) sensor, celsius::float AS celsius,"
            " to_char(taken_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') AS at"
            " FROM reading ORDER BY sensor, taken_at DESC"
        )
    )


@sensors.get("/<sensor>")
def one(sensor: str) -> Any:
    rows = query(
        "SELECT to_char(day, 'DD.MM.YYYY') AS day, readings, mean::float AS mean"
        " FROM daily WHERE sensor = %s ORDER BY daily.day",
        (sensor,),
    )
    return jsonify(rows) if rows else abort(404)


@sensors.post("/<sensor>")
def add(sensor: str) -> Any:
    execute(
        "INSERT INTO reading VALUES (%(sensor)s, %(at)s, %(celsius)s)",
        {**request.get_json(), "sensor": sensor},
    )
    return {"saved": True}, 201


@sensors.post("/batch")
def add_batch() -> Any:
    with conn.cursor() as cur:
        cur.executemany("INSERT INTO reading VALUES (%s, %s, %s)", request.get_json())
    return {"saved": len(request.get_json())}, 201


@sensors.delete("/<sensor>")
def remove(sensor: str) -> Any:
    return {"removed": execute("DELETE FROM reading WHERE sensor = %s", (sensor,))}


def roll_up() -> None:
    """Replace the readings of all days that are over by one line a day."""
    with conn.cursor() as cur:
        cur.execute(
            "INSERT INTO daily SELECT sensor, taken_at::date, COUNT(*), AVG(celsius)"
            " FROM reading WHERE taken_at < current_date GROUP BY 1, 2"
        )
        cur.execute("DELETE FROM reading WHERE taken_at < current_date")


def create_app() -> Flask:
    app = Flask(__name__)
    app.register_blueprint(sensors)
    return app


if __name__ == "__main__":
    roll_up()
