"""What the pool has to know of each DB-API 2 driver, in one adapter a driver.

Rule of this folder: nothing outside an adapter's module names its driver. An adapter holds no state
of any connection, knows no pool and no lease, and imports `errors`, `config` and the housekeeping
thread.
"""

from __future__ import annotations

from flask_pooled_db.drivers.asked import words_of_asking
from flask_pooled_db.drivers.base import FRESH_SESSION, IN_DOUBT, Driver, Failure, Session
from flask_pooled_db.drivers.facts import ServerLoad
from flask_pooled_db.drivers.registry import hazard_of_sharing, make_driver
from flask_pooled_db.drivers.servers import Servers

__all__ = [
    "FRESH_SESSION",
    "IN_DOUBT",
    "Driver",
    "Failure",
    "ServerLoad",
    "Servers",
    "Session",
    "hazard_of_sharing",
    "make_driver",
    "words_of_asking",
]
