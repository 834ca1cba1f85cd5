"""What an app can ask about the statements that it ran."""

from __future__ import annotations

from collections.abc import Mapping

from flask.globals import app_ctx

from flask_pooled_db.flask.context import OutsideAppContext
from flask_pooled_db.flask.observing import recorded
from flask_pooled_db.flask.serving import Serving
from flask_pooled_db.telemetry.recording import RecordedStatement


class Observed(Serving):
    """The part of the extension that tells what was observed."""

    def recorded_statements(self) -> list[RecordedStatement]:
        """Return the statements that the current app context ran, in the order in which they ended.

        They are recorded while the app is tested or debugged, or as POOLED_DB_RECORD_STATEMENTS
        says; an app that does not record has none. The first 1,000 are kept.
        """
        if not app_ctx:
            raise OutsideAppContext(
                "there is no application context, and statements are recorded in one: put the call "
                "into `with app.app_context():`, in the same block as the statements"
            )
        self.here()
        return recorded()

    def slow_statements(self) -> Mapping[str, int]:
        """Return how many statements took longer than POOLED_DB_SLOW_STATEMENT in this process, by
        the endpoint that ran them, or by the command, task or thread; the highest number first.

        200 names are told from each other; all further ones count as "other".
        """
        return self.here()[0].watch.slow_statements()
