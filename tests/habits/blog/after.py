"""A blog on SQLite: each request keeps its connection in `g`."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import click
from flask import Blueprint, Flask, abort, current_app, g, jsonify, request, session
from flask.cli import with_appcontext
from werkzeug.security import check_password_hash, generate_password_hash

from flask_pooled_db import PooledDB, get_db_connection

blog = Blueprint("blog", __name__)
sqlite3.register_converter("timestamp", lambda value: datetime.fromisoformat(value.decode()))


def get_db() -> Any:
    if "db" not in g:
        g.db = get_db_connection()
        g.db.row_factory = sqlite3.Row
    return g.db


def close_db(error: BaseException | None = None) -> None:
    db = g.pop("db", None)
    if db is not None:
        db.close()


@click.command("init-db")
@with_appcontext
def init_db() -> None:
    with current_app.open_resource("schema.sql", "r") as file:
        get_db().executescript(file.read())
    click.echo("Initialized the database.")


@blog.post("/register")
def register() -> Any:
    username, db = request.form["username"], get_db()
    try:
        db.execute(
            "INSERT INTO user (username, password) VALUES (?, ?)",
            (username, generate_password_hash(request.form["password"])),
        )
        db.commit()
    except db.IntegrityError:
        return {"error": f"User {username} is already registered."}, 409
    return {"registered": username}, 201


@blog.post("/login")
def login() -> Any:
    found = get_db().execute("SELECT * FROM user WHERE username = ?", (request.form["username"],))
    user = found.fetchone()
    if user is None or not check_password_hash(user["password"], request.form["password"]):
        abort(403)
    session["user_id"] = user["id"]
    return {"user": user["username"]}


@blog.get("/")
def index() -> Any:
    posts = get_db().execute(
        "SELECT p.id, title, created, username, strftime('%d.%m.%Y', created) AS day"
        " FROM post p JOIN user u ON p.author_id = u.id ORDER BY p.id DESC"
    )
    return jsonify([{**post, "year": post["created"].year} for post in posts])


@blog.get("/archive/<month>")
def archive(month: str) -> Any:
    posts = get_db().execute(
        "SELECT title FROM post WHERE strftime('%Y-%m', created) = ?"
        " AND title NOT LIKE '%draft%' ORDER BY id",
        (month,),
    )
    return jsonify([post["title"] for post in posts])


@blog.post("/create")
def create() -> Any:
    db = get_db()
    cur = db.execute(
        "INSERT INTO post (title, body, author_id) VALUES (:title, :body, :author)",
        {**request.form, "author": session["user_id"]},
    )
    db.commit()
    return {"id": cur.lastrowid}, 201


@blog.post("/<int:post>/delete")
def delete(post: int) -> Any:
    db = get_db()
    cur = db.execute("DELETE FROM post WHERE id = ?", (post,))
    db.commit()
    return {"deleted": cur.rowcount}


def create_app(config: Mapping[str, Any]) -> Flask:
    app = Flask(__name__)
    app.config.from_mapping(
        SECRET_KEY="dev",
        POOLED_DB_URL="sqlite:///blog.sqlite",
        POOLED_DB_CONNECT_ARGS={"detect_types": sqlite3.PARSE_DECLTYPES},
    )
    app.config.from_mapping(config)
    app.teardown_appcontext(close_db)
    app.cli.add_command(init_db)
    app.register_blueprint(blog)
    PooledDB(app)
    return app
