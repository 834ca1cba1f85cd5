"""What comes in from outside, checked before it meets the database."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# `ok` counts as approved; every other quality is a defect and counts as rejected.
QUALITIES = {
    "ok": "OK",
    "scratch": "Scratched",
    "dent": "Dented",
    "label": "Wrong label",
    "parts": "Parts missing",
}
MOST_SCANS = 500

_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class NewScan(NamedTuple):
    """A scan as a worker made it, not saved yet."""

    order: str
    box: str
    quality: str
    operator: str


class NewJob(NamedTuple):
    """A bicycle to repair, not saved yet."""

    bicycle: str
    work: str


class BadFields(Exception):
    """The request is wrong; `fields` says for each bad field what it must be."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__(", ".join(fields))
        self.fields = dict(fields)


def parse_scan(body: object) -> NewScan:
    """Return the scan in a JSON body, or raise `BadFields`."""
    if not isinstance(body, dict):
        raise BadFields({"body": "must be a JSON object, sent as application/json"})
    parsers = {"order": order_code, "box": _box, "quality": _quality, "operator": _line}
    return NewScan(**_parse(body, parsers))


def parse_scan_query(args: Mapping[str, str]) -> tuple[str | None, int]:
    """Return the order (None for all) and the limit to list scans by, or raise `BadFields`."""
    query = _parse(args, {"order": _optional_order, "limit": _limit})
    return query["order"], query["limit"]


def parse_customer(form: Mapping[str, str]) -> str:
    """Return the customer that a form names, or raise `BadFields`."""
    return str(_parse(form, {"customer": _line})["customer"])


def parse_job(form: Mapping[str, str]) -> NewJob:
    """Return the job in a form, or raise `BadFields`."""
    return NewJob(**_parse(form, {"bicycle": _line, "work": _work}))


def order_code(value: object) -> str:
    """Return the code of an order as it is stored, or raise `ValueError`."""
    return _code(value, 32)


def _parse(
    values: Mapping[str, object], parsers: Mapping[str, Callable[[object], Any]]
) -> dict[str, Any]:
    parsed, bad = {}, {}
    for name, parse in parsers.items():
        try:
            parsed[name] = parse(values.get(name))
        except ValueError as error:
            bad[name] = str(error)
    if bad:
        raise BadFields(bad)
    return parsed


def _code(value: object, longest: int) -> str:
    code = _text(value, longest)
    if not _CODE.fullmatch(code):
        raise ValueError("must be letters A to Z, digits, '.', '_' or '-'")
    # MariaDB takes "a1" and "A1" for one code, SQLite for two: upper case settles it.
    return code.upper()


def _text(value: object, longest: int) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text that is not empty")
    text = value.strip()
    if len(text) > longest:
        raise ValueError(f"must be {longest} characters at most")
    return text


def _box(value: object) -> str:
    return _code(value, 64)


def _quality(value: object) -> str:
    if not isinstance(value, str) or value not in QUALITIES:
        raise ValueError(f"must be one of {', '.join(QUALITIES)}")
    return value


def _line(value: object, longest: int = 64) -> str:
    text = _text(value, longest)
    if not text.isprintable():
        raise ValueError("must be printable characters")
    return text


def _work(value: object) -> str:
    return _line(value, 200)


def _optional_order(value: object) -> str | None:
    return None if value is None else order_code(value)


def _limit(value: object) -> int:
    if value is None:
        return 20
    if isinstance(value, str) and value.isdecimal() and len(value) <= len(str(MOST_SCANS)):
        limit = int(value)
        if 1 <= limit <= MOST_SCANS:
            return limit
    raise ValueError(f"must be a number from 1 to {MOST_SCANS}")
