"""The process: the lock, a thread that runs jobs on time, short-lived workers, threads that make
calls for event loops, a thread for other people's code, the fork, the exit.

It knows callbacks, and neither pools nor drivers. It imports nothing of the package.
"""

from flask_pooled_db.runtime import callers, guard
from flask_pooled_db.runtime.belonging import refuse_to_pickle
from flask_pooled_db.runtime.collector import no_collections
from flask_pooled_db.runtime.crew import crew
from flask_pooled_db.runtime.errand import Errand
from flask_pooled_db.runtime.housekeeper import Job, housekeeper
from flask_pooled_db.runtime.notices import Notices
from flask_pooled_db.runtime.process import FORK_PATIENCE, Part, join
from flask_pooled_db.runtime.reporter import announcer, reporter
from flask_pooled_db.runtime.throttle import Throttle
from flask_pooled_db.runtime.workers import wait_until, workers

__all__ = [
    "FORK_PATIENCE",
    "Errand",
    "Job",
    "Notices",
    "Part",
    "Throttle",
    "announcer",
    "callers",
    "crew",
    "guard",
    "housekeeper",
    "join",
    "no_collections",
    "refuse_to_pickle",
    "reporter",
    "wait_until",
    "workers",
]
