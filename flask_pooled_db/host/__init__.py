"""What the processes of one host tell each other: a directory, and what lies in it.

Each process publishes its numbers there; whoever asks reads those of all. A command gives orders
there, which each process carries out and answers. What the numbers and the orders are about is
their owners' business: this folder moves them, by functions that it is given.
"""

from flask_pooled_db.host.directory import Location, Unusable
from flask_pooled_db.host.duties import Duty, Refused
from flask_pooled_db.host.giving import Giving, Reply
from flask_pooled_db.host.orders import Answer, Status
from flask_pooled_db.host.publisher import Publisher, Source
from flask_pooled_db.host.report import WANTED, HostStats, ProcessStats, alone

__all__ = [
    "WANTED",
    "Answer",
    "Duty",
    "Giving",
    "HostStats",
    "Location",
    "ProcessStats",
    "Publisher",
    "Refused",
    "Reply",
    "Source",
    "Status",
    "Unusable",
    "alone",
]
