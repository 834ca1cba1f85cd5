"""A club's members and the events that they sign up for, on MariaDB."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Flask, abort, jsonify, request
from pymysql import IntegrityError

from flask_pooled_db import PooledDB

club = Blueprint("club", __name__)
mysql = PooledDB()


@club.get("/members")
def members() -> Any:
    cur = mysql.connection.cursor()
    found = cur.execute("SELECT name, email, visits FROM members ORDER BY name")
    return jsonify(count=found, members=cur.fetchall())


@club.get("/members/<name>")
def member(name: str) -> Any:
    cur = mysql.connection.cursor()
    cur.execute("SELECT id, name, visits FROM members WHERE name LIKE %s", (f"{name}%",))
    row = cur.fetchone()
    if row is None:
        abort(404)
    cur.execute("UPDATE members SET visits = visits + 1 WHERE id = %s", (row["id"],))
    return jsonify(row)


@club.post("/members")
def add_member() -> Any:
    cur = mysql.connection.cursor()
    try:
        cur.execute(
            "INSERT INTO members (name, email) VALUES (%(name)s, %(email)s)", request.get_json()
        )
    except IntegrityError:
        return {"error": "This address is taken."}, 409
    mysql.connection.commit()
    return {"id": cur.lastrowid}, 201


@club.get("/events")
def events() -> Any:
    cur = mysql.connection.cursor()
    cur.execute(
        "SELECT title, places, COUNT(member_id) AS taken FROM events"
        " LEFT JOIN signups ON event_id = id GROUP BY id ORDER BY title"
    )
    result = cur.fetchall()
    cur.close()
    return jsonify(list(result))


@club.post("/events")
def add_events() -> Any:
    cur = mysql.connection.cursor()
    cur.executemany(
        "INSERT INTO events (title, places) VALUES (%s, %s)",
        [(event["title"], event["places"]) for event in request.get_json()],
    )
    mysql.connection.commit()
    return {"saved": cur.rowcount}, 201


@club.post("/events/<int:event>/signups")
def sign_up(event: int) -> Any:
    cur = mysql.connection.cursor()
    if not cur.execute("SELECT places FROM events WHERE id = %s FOR UPDATE", (event,)):
        abort(404)
    places = cur.fetchone()["places"]
    missing = []
    for member_id in request.get_json():
        try:
            cur.execute("INSERT INTO signups VALUES (%s, %s)", (event, member_id))
        except IntegrityError:  # signed up before, or no member
            missing.append(member_id)
    cur.execute("SELECT COUNT(*) AS taken FROM signups WHERE event_id = %s", (event,))
    if cur.fetchone()["taken"] > places:
        mysql.connection.rollback()
        return {"error": "There is no room."}, 409
    mysql.connection.commit()
    return {"missing": missing}, 201


def create_app(config: Mapping[str, Any]) -> Flask:
    app = Flask(__name__)
    app.config["POOLED_DB_ROWS"] = "dict"
    app.config.from_mapping(config)
    app.config["POOLED_DB_URL"] = {
        "drivername": "mysql",
        "host": app.config["MYSQL_HOST"],
        "port": app.config["MYSQL_PORT"],
        "username": app.config["MYSQL_USER"],
        "password": app.config["MYSQL_PASSWORD"],
        "database": app.config["MYSQL_DB"],
    }
    mysql.init_app(app)
    app.register_blueprint(club)
    return app
