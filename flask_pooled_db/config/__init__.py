"""What an application configures: databases, pools and scopes, checked and immutable.

Rule of this folder: it turns what the user wrote into values. It opens nothing, knows no driver,
no pool and no Flask, and imports nothing of this package but `errors`.
"""

from __future__ import annotations

from flask_pooled_db.config.answers import ANSWER, url_of_answer
from flask_pooled_db.config.app import AppConfig, read_app
from flask_pooled_db.config.arguments import (
    check_count,
    check_flag,
    check_rows,
    check_seconds,
)
from flask_pooled_db.config.checks import describe, is_count, is_plain_name, looks_like_url, shown
from flask_pooled_db.config.fields import DEFAULT_BIND, PREFIX
from flask_pooled_db.config.parts import FROM_FILE
from flask_pooled_db.config.ping import Ping, PingPolicy
from flask_pooled_db.config.pool import PoolConfig, fit_sizes
from flask_pooled_db.config.rows import Rows
from flask_pooled_db.config.scope import (
    DEFAULT_OPTIONS,
    ScopeKeywords,
    ScopeOptions,
    options_of,
    refuse_unknown,
    signature_with_options,
)
from flask_pooled_db.config.url import AskedURL, DatabaseURL, URLError, parse_url

__all__ = [
    "ANSWER",
    "DEFAULT_BIND",
    "DEFAULT_OPTIONS",
    "FROM_FILE",
    "PREFIX",
    "AppConfig",
    "AskedURL",
    "DatabaseURL",
    "Ping",
    "PingPolicy",
    "PoolConfig",
    "Rows",
    "ScopeKeywords",
    "ScopeOptions",
    "URLError",
    "check_count",
    "check_flag",
    "check_rows",
    "check_seconds",
    "describe",
    "fit_sizes",
    "is_count",
    "is_plain_name",
    "looks_like_url",
    "options_of",
    "parse_url",
    "read_app",
    "refuse_unknown",
    "shown",
    "signature_with_options",
    "url_of_answer",
]
