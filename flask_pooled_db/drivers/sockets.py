"""A look at a connection's socket: what the operating system tells of it at no round trip."""

from __future__ import annotations

import ctypes
import functools
import select
import ssl
from collections.abc import Callable
from typing import Any, ClassVar

ENDED = 1
"""The server's side has ended, or it sent something that nobody asked for."""

UNCLEAR = -1
"""Something came that the driver may expect. Only a round trip tells."""

Look = Callable[[], int]
"""Returns 0 where there is nothing to tell, a positive number as ENDED, a negative as UNCLEAR."""

_POLLRDHUP = getattr(select, "POLLRDHUP", 0)  # Linux: the peer has closed its side


class _PollFD(ctypes.Structure):
    _fields_: ClassVar = [  # struct pollfd of poll(2)
        ("fd", ctypes.c_int),
        ("events", ctypes.c_short),
        ("revents", ctypes.c_short),
    ]


def look_at(fileno: int | None) -> Look:
    """Return a function that looks at a socket on which an idle server is silent.

    It calls poll(2) without releasing the GIL: the call never blocks, and a thread switch would
    cost more than it. Nor does it pass by gevent, which would switch to another greenlet.
    """
    if fileno is None or not hasattr(select, "poll"):
        return int  # called, it is 0
    return _poll(_PollFD(fileno, select.POLLIN | select.POLLPRI))


def look_at_talkative(fileno: int | None) -> Look:
    """The same for a socket on which an idle server may send what its driver handles by itself."""
    if fileno is None or not hasattr(select, "poll"):
        return int
    asked = _PollFD(fileno, select.POLLIN | select.POLLPRI | _POLLRDHUP)
    poll = _poll(asked)

    def look() -> int:
        if not poll():
            return 0
        return UNCLEAR if asked.revents == select.POLLIN else ENDED

    return look


def look_at_tls(sock: ssl.SSLSocket) -> Look:
    """The same for a TLS socket of Python's, whose records can be read.

    TLS has messages of its own, and a server may send them at any time: a new session ticket, a key
    update (RFC 8446, 4.6). They are no news of the connection.
    """
    poll = look_at(sock.fileno())

    def look() -> int:
        return ENDED if poll() and _has_news(sock) else 0

    return look


def _has_news(sock: Any) -> bool:
    """Read the records of TLS itself; return whether there was anything else, or the end."""
    timeout = sock.gettimeout()
    sock.settimeout(0.0)
    try:
        sock.recv(1)
    except ssl.SSLWantReadError:
        return False
    except OSError:  # an alert, a reset
        return True
    else:
        return True  # data that nobody asked for, or the end
    finally:
        sock.settimeout(timeout)


def _poll(asked: _PollFD) -> Look:
    return functools.partial(ctypes.pythonapi.poll, ctypes.byref(asked), 1, 0)
