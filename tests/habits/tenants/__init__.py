"""Invoices of many companies, each with a database file of its own."""
