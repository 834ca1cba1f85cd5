"""Pooled connections: how many may be open, who gets one, how they are opened, checked and closed.

It knows neither SQL nor Flask, and nothing of those who watch it: they subscribe to its events. It
imports `errors`, `config`, `runtime` and `drivers`.
"""

from flask_pooled_db.pool.budget import Budget
from flask_pooled_db.pool.engine import Engine
from flask_pooled_db.pool.entry import Entry
from flask_pooled_db.pool.events import Events, NoEvents
from flask_pooled_db.pool.histogram import Histogram
from flask_pooled_db.pool.stats import Counters, PoolStats

__all__ = ["Budget", "Counters", "Engine", "Entry", "Events", "Histogram", "NoEvents", "PoolStats"]
