"""As much of PostgreSQL's protocol as it takes to count round trips and to read statements."""

from __future__ import annotations

from collections.abc import Iterator

from harness.protocol import PAYLOAD_PREFIX, Command

QUERY, PARSE, SYNC = b"QPS"

_PASSWORD = ord("p")  # and what else a client answers while it is authenticated
_LENGTH = 4
_VERSION_3 = 3


class PostgreSQLCommand(Command):
    """A message that a client sent: its connection's number, its type, the start of its body."""

    __slots__ = ()

    @property
    def is_round_trip(self) -> bool:
        """Whether the client waits for an answer to this message: to a simple query, or to what it
        has sent since the last Sync.
        """
        return self.code in (QUERY, SYNC)

    def starts_with(self, prefix: bytes) -> bool:
        """Whether it is SQL text that starts so, in upper or lower case."""
        if self.code == PARSE:
            return self.payload.partition(b"\0")[2].lstrip().upper().startswith(prefix.upper())
        return self.code == QUERY and self.payload.lstrip().upper().startswith(prefix.upper())


class PostgreSQLSplitter:
    """Splits what a client sends into messages.

    Each is a type (1 byte), a length (4 bytes, big endian, itself included) and a body. The first
    ones, up to that with the protocol's version, have no type:
    https://www.postgresql.org/docs/current/protocol-message-formats.html

    It reads no TLS: a client that goes on so after its request is not understood.
    """

    command = PostgreSQLCommand
    is_encrypted = False

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._has_begun = False

    def decrypt(self) -> bytes:
        """There is none to read."""
        raise NotImplementedError

    def feed(self, data: bytes) -> Iterator[tuple[bytes, tuple[int, bytes] | None]]:
        """Each complete message, with type and start of the body if it is a command."""
        self._buffer += data
        while message := self._next_message():
            if not self._has_begun:
                version = int.from_bytes(message[_LENGTH : _LENGTH + 2], "big")
                self._has_begun = version == _VERSION_3
                yield message, None
            elif message[0] == _PASSWORD:
                yield message, None
            else:
                begin = _LENGTH + 1
                yield message, (message[0], message[begin : begin + PAYLOAD_PREFIX])

    def _next_message(self) -> bytes:
        begin = 1 if self._has_begun else 0
        if len(self._buffer) < begin + _LENGTH:
            return b""
        end = begin + int.from_bytes(self._buffer[begin : begin + _LENGTH], "big")
        if len(self._buffer) < end:
            return b""
        message = bytes(self._buffer[:end])
        del self._buffer[:end]
        return message
