"""A look at a connection's socket: what is the end, and what is no news."""

from __future__ import annotations

import resource
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from flask_pooled_db.drivers.sockets import ENDED, UNCLEAR, look_at, look_at_talkative, look_at_tls
from harness.sockets import is_readable
from harness.tls import Certificates, tls_sockets


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a connection: the client's, and the server's."""
    client, server = socket.socketpair()
    with client, server:
        yield client, server


def test_p4_silence(pair: tuple[socket.socket, socket.socket]) -> None:
    """A silent socket is alive."""
    client, _ = pair
    assert look_at(client.fileno())() == 0
    assert look_at_talkative(client.fileno())() == 0
    assert look_at(None)() == look_at_talkative(None)() == 0


def test_p4_unsolicited_data(pair: tuple[socket.socket, socket.socket]) -> None:
    """Unsolicited data means the end of the connection, or is unclear if the driver may expect
    some.
    """
    client, server = pair
    server.send(b"x")
    assert look_at(client.fileno())() > 0
    assert look_at_talkative(client.fileno())() == UNCLEAR


def test_p4_end(pair: tuple[socket.socket, socket.socket]) -> None:
    """The end of a connection is seen, with or without data before it."""
    client, server = pair
    server.send(b"x")
    server.close()
    assert look_at(client.fileno())() > 0
    assert look_at_talkative(client.fileno())() == ENDED


@contextmanager
def failing_poll() -> Iterator[None]:
    """poll(2) returns -1 in the block, as it does when a signal comes: no descriptor is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_p4_failed_poll(pair: tuple[socket.socket, socket.socket]) -> None:
    """A poll(2) that fails proves nothing, whatever the last one has found."""
    client, server = pair
    looks = [look_at(client.fileno()), look_at_talkative(client.fileno())]
    with failing_poll():
        assert [look() for look in looks] == [UNCLEAR, UNCLEAR]
    assert [look() for look in looks] == [0, 0]
    server.close()
    assert [look() for look in looks] == [ENDED, ENDED]
    with failing_poll():
        assert [look() for look in looks] == [UNCLEAR, UNCLEAR]


def test_p4_failed_poll_over_tls(certificates: Certificates) -> None:
    """Over TLS reading tells what a poll(2) that fails does not."""
    with tls_sockets(certificates) as (client, server):
        look = look_at_tls(client)
        with failing_poll():
            assert look() == 0
        server.close()
        with failing_poll():
            assert look() == ENDED


def test_p4_closed_tls_socket(certificates: Certificates) -> None:
    """A TLS socket that its driver has closed is at its end, and looking at it raises nothing."""
    with tls_sockets(certificates) as (client, _):
        look = look_at_tls(client)
        client.close()
        assert look() == ENDED


def test_p4_late_session_tickets(certificates: Certificates) -> None:
    """Late session tickets are read, and the connection is alive."""
    with tls_sockets(certificates) as (client, server):
        look = look_at_tls(client)
        assert is_readable(client.fileno(), 0)
        assert look() == 0
        assert not is_readable(client.fileno(), 0)
        assert client.gettimeout() is None
        server.send(b"answer")
        assert client.recv(10) == b"answer"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("how", ["data", "alert", "end", "reset"])
def test_p4_end_over_tls(certificates: Certificates, version: ssl.TLSVersion, how: str) -> None:
    """The end of a TLS connection is seen, even behind late session tickets."""
    with tls_sockets(certificates, version) as (client, server):
        look = look_at_tls(client)
        if how == "data":
            server.send(b"x")
        elif how == "alert":
            server.settimeout(0)
            with pytest.raises(ssl.SSLWantReadError):
                server.unwrap()
        elif how == "end":
            server.close()
        else:
            client.shutdown(socket.SHUT_RDWR)
        assert look() == ENDED
