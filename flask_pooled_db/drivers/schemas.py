"""What the pool asks of a driver so that tenants, each with a schema, can share its connections."""

from __future__ import annotations

from typing import Any, ClassVar


class Schemas:
    """The part of a driver that brings a connection to a schema.

    The answers here are for a driver whose server has none, or is not known.
    """

    why_no_schemas: ClassVar[str] = (
        "nobody knows how its connections change from one to another; where a function connects, "
        "give that an attribute `dbapi` with the driver's module"
    )
    """Why SERVER can't name a bind of this driver; empty if it can."""

    hides_schema: ClassVar[bool] = False
    """Whether a lease may leave the schema without any sign of it, so that the next one must not
    rely on it."""

    def own_schema(self, raw: Any) -> str:
        """Return what leads a connection back to where it was before it entered a schema."""
        raise NotImplementedError

    def enter_schema(self, raw: Any, schema: str | None, own: str) -> None:
        """Bring a connection without a transaction to a schema, or, if that is None, back to its
        `own_schema`. It may leave a transaction open, which is the next statement's.

        Raises the driver's error if the schema does not exist.
        """
        raise NotImplementedError
