"""What a function that tells a URL has returned."""

from __future__ import annotations

from typing import Any

from flask_pooled_db.config import checks
from flask_pooled_db.config.url import DatabaseURL
from flask_pooled_db.errors import ConfigError

ANSWER = "what the function in URL returned"


def url_of_answer(answer: Any) -> DatabaseURL:
    """Return the URL that a function has returned, in any of the forms that URL itself may have.

    Raises `ConfigError`, which shows nothing of it.
    """
    if answer is None:
        raise ConfigError([f"{ANSWER} is None: it has to return a database URL"])
    try:
        return checks.plain_url(answer)
    except checks.Invalid as invalid:
        raise ConfigError([f"{ANSWER} {invalid}"]) from None
