"""Everything that is done to a connection's socket behind the driver's back.

A look at it tells, without a round trip, whether the server has ended the connection. A connection
can be cut from any thread, and detached from its server in a forked child.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

ENDED = 1
"""The server has closed its side, or sent something unsolicited."""

UNCLEAR = -1
"""Something arrived that the driver may be waiting for. Only a round trip can tell."""

Look = Callable[[], int]
"""Returns 0 if there is nothing to report, a positive number for ENDED, a negative for UNCLEAR."""

_POLLRDHUP = getattr(select, "POLLRDHUP", 0)  # Linux: the peer has closed its side


class _PollFD(ctypes.Structure):
    _fields_: ClassVar = [  # struct pollfd of poll(2)
        ("fd", ctypes.c_int),
        ("events", ctypes.c_short),
        ("revents", ctypes.c_short),
    ]


def look_at(fileno: int | None) -> Look:
    """Return a function that looks at a socket on which an idle server is silent.

    It calls poll(2) without releasing the GIL: the call never blocks, so a thread switch would be
    wasted. This also bypasses gevent, which would switch to another greenlet. A poll(2) that fails
    returns -1, which is UNCLEAR.
    """
    if fileno is None or not hasattr(select, "poll"):
        return int  # int() is 0
    return _poll(_PollFD(fileno, select.POLLIN | select.POLLPRI))


def look_at_talkative(fileno: int | None) -> Look:
    """Return the same for a socket on which an idle server may send what the driver handles."""
    if fileno is None or not hasattr(select, "poll"):
        return int
    request = _PollFD(fileno, select.POLLIN | select.POLLPRI | _POLLRDHUP)
    poll = _poll(request)

    def look() -> int:
        found = poll()
        if found < 0:  # a signal, or no memory: it tells nothing, and `revents` is an old answer
            found = poll()
        if found <= 0:
            return UNCLEAR if found else 0
        return UNCLEAR if request.revents == select.POLLIN else ENDED

    return look


def look_at_tls(sock: ssl.SSLSocket) -> Look:
    """Return the same for a Python TLS socket, whose records can be read.

    A server may send TLS messages at any time, such as a new session ticket or a key update (RFC
    8446, 4.6). They say nothing about the connection.
    """
    poll = look_at(sock.fileno())

    def look() -> int:
        return _read_messages(sock) if poll() else 0

    return look


def _read_messages(sock: Any) -> int:
    """Read the pending TLS messages; return ENDED if there is anything else, or the end."""
    timeout = sock.gettimeout()
    try:
        sock.settimeout(0.0)
        try:
            sock.recv(1)
        finally:
            sock.settimeout(timeout)
    except ssl.SSLWantReadError:
        return 0
    except (ssl.SSLWantWriteError, InterruptedError):  # it could not read on: that proves nothing
        return UNCLEAR
    except OSError:  # an alert, a reset
        return ENDED
    return ENDED  # unsolicited data, or the end


def _poll(request: _PollFD) -> Look:
    return functools.partial(ctypes.pythonapi.poll, ctypes.byref(request), 1, 0)


def dial(address: Any, deadline: float, source: Any = None) -> socket.socket:
    """Return a socket that is connected to a host and port, or to the path of a Unix socket.

    Raises `OSError` if no address of the host has answered by the deadline. Each has an equal part
    of the time that the ones before it have left.
    """
    if isinstance(address, str):
        return _dialled((socket.AF_UNIX, socket.SOCK_STREAM), address, time_left(deadline))
    host, port = address
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failure: OSError = socket.gaierror(f"no address of {host!r} is known")
    for tried, (family, kind, protocol, _, place) in enumerate(found):
        seconds = time_left(deadline) / (len(found) - tried)
        try:
            sock = _dialled((family, kind, protocol), place, seconds, source)
        except OSError as error:
            failure = error
            continue
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return sock
    raise failure


def _dialled(kind: Any, place: Any, seconds: float, source: Any = None) -> socket.socket:
    sock = socket.socket(*kind)
    try:
        sock.settimeout(seconds)
        if source is not None:
            sock.bind(source)
        sock.connect(place)
    except BaseException:
        sock.close()
        raise
    return sock


def time_left(deadline: float) -> float:
    """Return the seconds until a deadline, as a timeout: never 0, which would mean not to wait."""
    return max(deadline - time.monotonic(), 0.001)


class Ends(NamedTuple):
    """Where a TCP connection begins, and where it leads: an IP address and a port each."""

    own: tuple[str, int]
    peer: tuple[str, int]


def ends(fileno: int) -> Ends | None:
    """Return the two ends of a socket; None if it is no TCP connection."""
    try:
        duplicate = socket.socket(fileno=os.dup(fileno))
    except OSError:
        return None
    with duplicate:
        if duplicate.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        try:
            (own, port, *_), (peer, other, *_) = duplicate.getsockname(), duplicate.getpeername()
        except OSError:
            return None
        return Ends((str(own), int(port)), (str(peer), int(other)))


def cut(fileno: int) -> None:
    """Shut a connection down, from any thread. A call that waits for the peer fails at once."""
    # Use a duplicate, so that the descriptor that the driver owns stays open.
    try:
        number = os.dup(fileno)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        number = fileno  # no more files: it is borrowed
    sock = socket.socket(fileno=number)
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the peer has closed it already
    finally:
        if number == fileno:
            sock.detach()
        else:
            sock.close()


def detach(fileno: int) -> None:
    """In a forked child, replace an inherited socket by the null device.

    Whatever the driver writes then goes nowhere, also when it is wrapped in TLS, and the parent's
    socket isn't affected. An unconnected socket wouldn't work: OpenSSL takes "not connected" for
    "not yet connected", and retries forever.
    """
    null_device = os.open(os.devnull, os.O_RDWR)
    try:
        os.dup2(null_device, fileno, inheritable=False)
    finally:
        os.close(null_device)
