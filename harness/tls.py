"""Throw-away certificates for a server on 127.0.0.1, and TLS without a socket."""

from __future__ import annotations

import _ssl
import contextlib
import ctypes
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import trustme

from harness.sockets import LOOPBACK

_CHUNK = 65536


@dataclass(frozen=True)
class Certificates:
    """PEM files: a CA, the certificate it gave the server, and a CA that gave nobody any."""

    ca: Path
    server_certificate: Path
    server_key: Path
    wrong_ca: Path

    @property
    def server_options(self) -> tuple[str, ...]:
        """The options that make mariadbd offer TLS with these."""
        return (
            f"--ssl-ca={self.ca}",
            f"--ssl-cert={self.server_certificate}",
            f"--ssl-key={self.server_key}",
        )

    @cached_property
    def _server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server_certificate, self.server_key)
        return context

    @cached_property
    def _client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca))

    def server_end(self) -> TLSEnd:
        """The server's end of a connection, with the same certificate as mariadbd."""
        return TLSEnd(self._server_context, server_side=True)

    def client_end(self) -> TLSEnd:
        """The client's end of a connection, which verifies the server."""
        return TLSEnd(self._client_context, server_hostname=LOOPBACK)


class TLSEnd:
    """One end of a TLS connection without a socket: what it has to send is asked for."""

    def __init__(self, context: ssl.SSLContext, **options: Any) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, **options)
        self._is_ready = False
        self._unsent = bytearray()
        self.receive(b"")  # the client's end speaks first

    def receive(self, data: bytes) -> bytes:
        """Decrypt what the peer sent; raise `ssl.SSLError` where that is no good TLS."""
        self._incoming.write(data)
        received = bytearray()
        with contextlib.suppress(ssl.SSLWantReadError):
            if not self._is_ready:
                self._tls.do_handshake()
                self._is_ready = True
                self.send(bytes(self._unsent))
            while chunk := self._tls.read(_CHUNK):
                received += chunk
        return bytes(received)

    def send(self, data: bytes) -> None:
        """Encrypt data for the peer, once the handshake is done."""
        if not self._is_ready:
            self._unsent += data
        elif data:
            self._tls.write(data)

    def send_ticket(self) -> None:
        """Send the peer a session ticket, which is no data: a server may do so at any time.

        Python's `ssl` offers no way to do so, but OpenSSL does: SSL_new_session_ticket(3). The
        `SSL *` that it wants is the second field of CPython's `PySSLSocket` (3.10 to 3.14).
        """
        if not self._is_ready or self._tls.version() != "TLSv1.3":
            raise ValueError("A ticket can be sent over TLS 1.3 alone, after the handshake.")
        tls: Any = self._tls
        field = id(tls._sslobj) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)
        # The library's own names are found through the module that is linked with it.
        new_ticket = ctypes.CDLL(_ssl.__file__).SSL_new_session_ticket
        if not new_ticket(ctypes.c_void_p.from_address(field)):
            raise ValueError("OpenSSL has no ticket to send.")
        self._tls.do_handshake()  # writes what is pending

    def outgoing(self) -> bytes:
        """What is to be sent to the peer now."""
        return self._outgoing.read()


@contextmanager
def tls_sockets(
    certificates: Certificates, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """A client's and a server's end of a TLS connection, just after the handshake.

    With TLS 1.3 the server's two session tickets lie unread on the client's socket, as they do
    where they come late.
    """
    ours = ssl.create_default_context(cafile=str(certificates.ca))
    ours.minimum_version = ours.maximum_version = version
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(certificates.server_certificate, certificates.server_key)
    near, far = socket.socketpair()
    with ThreadPoolExecutor(1) as executor:
        accepting = executor.submit(theirs.wrap_socket, far, server_side=True)
        with ours.wrap_socket(near, server_hostname="localhost") as client:
            with accepting.result() as server:
                yield client, server


def make_certificates(directory: Path) -> Certificates:
    """Write them into `directory`; the server's is valid for 127.0.0.1 and localhost."""
    made = Certificates(
        ca=directory / "ca.pem",
        server_certificate=directory / "server.pem",
        server_key=directory / "server-key.pem",
        wrong_ca=directory / "wrong-ca.pem",
    )
    ca = trustme.CA()
    server = ca.issue_cert("127.0.0.1", "localhost")
    ca.cert_pem.write_to_path(made.ca)
    server.cert_chain_pems[0].write_to_path(made.server_certificate)
    server.private_key_pem.write_to_path(made.server_key)
    trustme.CA().cert_pem.write_to_path(made.wrong_ca)
    return made
