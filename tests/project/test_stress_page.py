"""docs/commands.md says of `stress` what the command does."""

from __future__ import annotations

import re

import click

from flask_pooled_db.flask.commands.stress.command import stress
from harness.processes import PROJECT

PAGE = (PROJECT / "docs" / "commands.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## stress\n")[2].partition("\n## ")[0]


def test_options_of_stress() -> None:
    """The section has each option of the command, and no other; its defaults are right."""
    options = {
        name: option.default
        for option in stress.params
        if isinstance(option, click.Option)
        for name in option.opts
    }
    assert set(re.findall(r"--[a-z]+", SECTION)) - {"--app"} == options.keys()
    assert f"(`--clients`, {options['--clients']})" in SECTION
    assert f"(`--seconds`, {options['--seconds']:g})" in SECTION
    assert f"(`{options['--url']}`;" in SECTION
