"""Tests of what becomes of what pools and leases tell."""
