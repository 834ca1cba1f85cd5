"""The pages of the workshops: a list of them, and each one's bicycles to repair."""

import os
import secrets
from datetime import UTC, datetime
from typing import Any, NamedTuple

from flask import (
    Blueprint,
    Response,
    abort,
    current_app,
    redirect,
    render_template,
    request,
    url_for,
)
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from example_app import tenants
from example_app.database import reading, transaction
from example_app.errors import AWAY, RETRY_AFTER
from example_app.parsing import BadFields, parse_customer, parse_job
from flask_pooled_db import CommitOutcomeUnknown, UnknownBind

bp = Blueprint("workshops", __name__, url_prefix="/workshops")


class Job(NamedTuple):
    """A row of `jobs`, in a workshop's own database."""

    id: str
    bicycle: str
    work: str
    added_at: str


@bp.get("")
def page() -> ResponseReturnValue:
    with reading() as cur:
        cur.execute("SELECT name, customer FROM workshops ORDER BY customer, name")
        workshops = [tenants.Workshop(*row) for row in cur.fetchall()]
    return render_template(
        "workshops.html",
        workshops=workshops,
        open_here=tenants.open_here(),
        idle_timeout=current_app.config["POOLED_DB_BIND_IDLE_TIMEOUT"],
        process=os.getpid(),
    )


@bp.post("")
def add() -> ResponseReturnValue:
    workshop = tenants.add(parse_customer(request.form))
    return redirect(url_for(".show", name=workshop.name), 303)


@bp.get("/<name>")
def show(name: str) -> ResponseReturnValue:
    with tenants.existing(name) as workshop, reading(bind=name) as cur:
        cur.execute("SELECT id, bicycle, work, added_at FROM jobs ORDER BY added_at DESC, id")
        jobs = [Job(*row) for row in cur.fetchall()]
    return render_template("workshop.html", workshop=workshop, jobs=jobs)


@bp.post("/<name>/jobs")
def add_job(name: str) -> ResponseReturnValue:
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    with tenants.existing(name):
        job = Job(secrets.token_hex(8), *parse_job(request.form), now)
        transaction(_record_job, job, bind=name)
    return redirect(url_for(".show", name=name), 303)


def _record_job(conn: Any, job: Job) -> None:
    with conn.cursor() as cur:
        cur.execute("INSERT INTO jobs (id, bicycle, work, added_at) VALUES (%s, %s, %s, %s)", job)


@bp.post("/<name>/remove")
def remove(name: str) -> ResponseReturnValue:
    tenants.remove(name)
    return redirect(url_for(".page"), 303)


@bp.before_request
def refuse_other_sites() -> None:
    """Take no form that another site had the browser send."""
    if request.method == "POST" and request.headers.get("Sec-Fetch-Site") == "cross-site":
        abort(403, "This form was sent by another site.")


@bp.after_request
def let_nothing_in(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = "default-src 'self'"
    return response


# Errors are pages here, with words for a customer and no word of the driver's.


def _problem(text: str) -> str:
    return render_template("layout.html", title="Workshops", problem=text)


@bp.errorhandler(HTTPException)
def http_error(error: HTTPException) -> ResponseReturnValue:
    return _problem(error.description or error.name), error.code or 500


@bp.errorhandler(UnknownBind)
def unknown(_: UnknownBind) -> ResponseReturnValue:
    return _problem("There is no such workshop."), 404


@bp.errorhandler(BadFields)
def bad_fields(error: BadFields) -> ResponseReturnValue:
    text = "; ".join(f"{field} {problem}" for field, problem in error.fields.items())
    return _problem(f"Nothing was saved: {text}."), 400


@bp.errorhandler(tenants.NoDatabase)
def no_database(error: tenants.NoDatabase) -> ResponseReturnValue:
    current_app.logger.error("A workshop's database can't be made: %r", error.__cause__ or error)
    return _problem(f"No database could be made, and nothing was saved: {error}."), 503


@bp.errorhandler(CommitOutcomeUnknown)
def outcome_unknown(error: CommitOutcomeUnknown) -> ResponseReturnValue:
    current_app.logger.error("The answer to COMMIT was lost: %r", error.__cause__)
    return _problem("It is not known whether this was saved: look before you send it again."), 503


def database_away(error: Exception) -> ResponseReturnValue:
    current_app.logger.error("The database is away: %r", error.__cause__ or error)
    text = "The database is away. Nothing was saved. Try again in a moment."
    return _problem(text), 503, RETRY_AFTER


for away in AWAY:
    bp.register_error_handler(away, database_away)
