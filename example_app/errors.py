"""Every error is answered as JSON, with words for a worker and no word of the driver's.

The workshops' pages answer with a page instead: see workshops.py.
"""

from flask import Flask, current_app, json
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from example_app.database import DatabaseAway
from example_app.parsing import BadFields
from flask_pooled_db import CommitOutcomeUnknown, ConnectFailed, PoolTimeout, TransactionAborted

AWAY = (PoolTimeout, ConnectFailed, TransactionAborted, DatabaseAway)
RETRY_AFTER = {"Retry-After": "2"}


def init_app(app: Flask) -> None:
    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(BadFields, bad_fields)
    app.register_error_handler(CommitOutcomeUnknown, outcome_unknown)
    for error in AWAY:
        app.register_error_handler(error, database_away)


def http_error(error: HTTPException) -> Response:
    response = error.get_response()
    response.content_type = "application/json"
    response.data = json.dumps({"error": error.description})
    return response


def bad_fields(error: BadFields) -> ResponseReturnValue:
    return {"error": "Some fields are not right.", "fields": error.fields}, 400


def outcome_unknown(error: CommitOutcomeUnknown) -> ResponseReturnValue:
    """A scan may be saved or not. Sending it again is safe: a box is unique in its order."""
    current_app.logger.error("The answer to COMMIT was lost: %r", error.__cause__)
    message = "It is not known whether this was saved. Send it again: it is never saved twice."
    return {"error": message}, 503, RETRY_AFTER


def database_away(error: Exception) -> ResponseReturnValue:
    current_app.logger.error("The database is away: %r", error.__cause__ or error)
    return {"error": "The database is away. Nothing was saved."}, 503, RETRY_AFTER
