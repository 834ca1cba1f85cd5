"""What can't leave its process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn


def refuse_to_pickle(what: str, instead: str) -> Callable[[Any, Any], NoReturn]:
    """Return a `__reduce_ex__` for a class whose objects are of use in their process alone."""

    def refuse(self: object, protocol: object) -> NoReturn:
        raise TypeError(f"{what} can't be pickled or copied: {instead}")

    return refuse
