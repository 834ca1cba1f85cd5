"""Tests of databases by name: opened at their first use, closed when they are unused."""
