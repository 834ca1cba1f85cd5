"""Tests of `flask_pooled_db.telemetry`, and of what the app sees of it."""
