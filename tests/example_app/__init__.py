"""The example app: on SQLite and MariaDB, under gunicorn, in a browser."""
