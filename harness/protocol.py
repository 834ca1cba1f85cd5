"""As much of the client/server protocol as it takes to count commands and to read their text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

COM_QUIT, COM_QUERY, COM_STMT_PREPARE, COM_STMT_EXECUTE = 0x01, 0x03, 0x16, 0x17
COM_STMT_SEND_LONG_DATA, COM_STMT_CLOSE, COM_RESET_CONNECTION = 0x18, 0x19, 0x1F
COM_STMT_BULK_EXECUTE = 0xFA

PAYLOAD_PREFIX = 200

_UNANSWERED = frozenset({COM_QUIT, COM_STMT_SEND_LONG_DATA, COM_STMT_CLOSE})
_EXECUTE = frozenset({COM_STMT_EXECUTE, COM_STMT_BULK_EXECUTE})
_TEXT = frozenset({COM_QUERY, COM_STMT_PREPARE})
# MariaDB's "the statement just prepared": sent along with COM_STMT_PREPARE, in one round trip.
_LAST_PREPARED = b"\xff\xff\xff\xff"
_HEADER = 4
_CLIENT_SSL = 0x800
_SSL_REQUEST_LENGTH = 32


class Command(NamedTuple):
    """A command that a client sent: its connection's number, its code, the start of its body."""

    connection: int
    code: int
    payload: bytes

    @property
    def is_round_trip(self) -> bool:
        """Whether the client waits for an answer to this command by itself."""
        pipelined = self.code in _EXECUTE and self.payload.startswith(_LAST_PREPARED)
        return self.code not in _UNANSWERED and not pipelined

    def starts_with(self, prefix: bytes) -> bool:
        """Whether it is SQL text that starts so, in upper or lower case."""
        return self.code in _TEXT and self.payload.lstrip().upper().startswith(prefix.upper())


class CommandSplitter:
    """Splits what a client sends into packets, and tells which of them are commands.

    A packet is a length (3 bytes, little endian), a sequence number (1 byte) and that many bytes;
    only a command has the sequence number 0. Source: MariaDB Knowledge Base, "0 - Packet".

    After a request for TLS nothing can be read until `decrypt()` says that what is fed from then on
    is decrypted. The handshake goes on there with the next sequence number.
    """

    command = Command

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._in_handshake = True
        self.is_encrypted = False

    def decrypt(self) -> bytes:
        """Take what follows for decrypted; what was fed after the request for TLS is given back."""
        self.is_encrypted = False
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def feed(self, data: bytes) -> Iterator[tuple[bytes, tuple[int, bytes] | None]]:
        """Each complete packet, with code and start of the body if it is a command."""
        self._buffer += data
        while not self.is_encrypted and (packet := self._next_packet()):
            if packet[3] or len(packet) == _HEADER:
                self._note_handshake(packet)
                yield packet, None
            else:
                body = packet[_HEADER + 1 : _HEADER + 1 + PAYLOAD_PREFIX]
                yield packet, (packet[_HEADER], body)
        if self.is_encrypted and self._buffer:
            everything = bytes(self._buffer)
            self._buffer.clear()
            yield everything, None

    def _next_packet(self) -> bytes:
        if len(self._buffer) < _HEADER:
            return b""
        end = _HEADER + int.from_bytes(self._buffer[:3], "little")
        if len(self._buffer) < end:
            return b""
        packet = bytes(self._buffer[:end])
        del self._buffer[:end]
        return packet

    def _note_handshake(self, packet: bytes) -> None:
        """The first packet may be a request for TLS; after it nothing can be read."""
        if not self._in_handshake:
            return
        self._in_handshake = False
        capabilities = int.from_bytes(packet[_HEADER : _HEADER + 2], "little")
        is_short = len(packet) == _HEADER + _SSL_REQUEST_LENGTH
        self.is_encrypted = is_short and bool(capabilities & _CLIENT_SSL)
