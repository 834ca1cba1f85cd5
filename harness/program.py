"""The command line that `benchmarks` and `faults` have in common."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from harness.processes import PROJECT

Effort = TypeVar("Effort")


@dataclass(frozen=True)
class Order(Generic[Effort]):
    """What the caller asked for."""

    names: Sequence[str]
    effort: Effort
    is_whole: bool
    options: argparse.Namespace


class Program(Generic[Effort]):
    """A program that takes names and `--quick`; `page` is the file in `docs/` it writes."""

    def __init__(
        self,
        package: str,
        names: Collection[str],
        *,
        kind: str,
        about: str | None,
        quick: tuple[Effort, str],
        full: Effort,
        page: str,
    ) -> None:
        self._names = names
        self._kind = kind
        self._quick, remark = quick
        self._full = full
        self._page = PROJECT / "docs" / page
        self.parser = argparse.ArgumentParser(prog=f"python -m {package}", description=about)
        self.parser.add_argument(
            "names", nargs="*", metavar="NAME", help=f"one of {', '.join(names)}"
        )
        self.parser.add_argument("--quick", action="store_true", help=f"{remark}; writes no file")

    def order(self, arguments: Sequence[str] | None = None) -> Order[Effort]:
        """Return what is to be run; exit with a message where a name is unknown."""
        options = self.parser.parse_args(arguments)
        unknown = set(options.names) - set(self._names)
        if unknown:
            self.parser.error(f"there is no {self._kind} {', '.join(sorted(unknown))}")
        names = options.names or list(self._names)
        is_whole = not options.quick and set(names) == set(self._names)
        return Order(names, self._quick if options.quick else self._full, is_whole, options)

    def publish(self, report: str, *, keep: bool) -> Path | None:
        """Print the report; `keep` writes it to its page as well."""
        sys.stdout.write(report)
        if not keep:
            return None
        self._page.parent.mkdir(exist_ok=True)
        self._page.write_text(report)
        return self._page
