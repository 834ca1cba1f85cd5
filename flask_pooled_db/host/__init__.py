"""What the processes of one host tell each other: a directory, and what lies in it.

Each process publishes its numbers there; whoever asks reads those of all. What the numbers are
about is their owners' business: this folder moves them, and adds them up by a function it is given.
"""

from flask_pooled_db.host.directory import Location, Unusable
from flask_pooled_db.host.publisher import Publisher, Source
from flask_pooled_db.host.report import HostStats, ProcessStats, alone

__all__ = ["HostStats", "Location", "ProcessStats", "Publisher", "Source", "Unusable", "alone"]
