"""A dashboard of sensors, with a script that cron runs."""
