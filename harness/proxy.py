"""A TCP proxy that stands for the network: it is slow, it fails, and it counts round trips."""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from harness.postgres_protocol import PostgreSQLSplitter
from harness.processes import Managed
from harness.protocol import Command, CommandSplitter
from harness.sockets import DATABASE_PORTS, LOOPBACK, free_port
from harness.tls import Certificates, TLSEnd

T = TypeVar("T")

_END = b""
_THREAD_TIMEOUT = 10.0
_BACKLOG = 512
# SO_LINGER with no time to linger: close() sends a reset.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass
class _Fault:
    """What to do to the next `times` commands whose text starts with `prefix`."""

    prefix: bytes
    times: int
    reaches_server: bool
    answer: bytes = b""
    """What the client gets in place of the server's answer, before the end."""

    def strikes(self, command: Command) -> bool:
        if not self.times or not command.starts_with(self.prefix):
            return False
        self.times -= 1
        return True


class Proxy(Managed):
    """A proxy on a free port of 127.0.0.1, in a thread of its own; a context manager.

    `delay` is in seconds and in each direction, and may be changed at any time; asyncio's clock
    makes whole milliseconds of it, or one more. All methods may be called by any thread, and have
    taken effect when they return. A command is on record before its answer reaches the client.

    A client that asks for TLS is forwarded as it is, unless the proxy has `certificates`: then it
    ends the client's TLS itself, in the server's name, and has TLS of its own with the server.
    Without them nothing can be read over TLS: there, commands are not recorded and faults bound to
    a command do not strike.

    `splitter` makes what reads the clients' protocol: MariaDB's, or PostgreSQL's.
    """

    def __init__(
        self,
        host: str,
        port: int,
        delay: float = 0.0,
        *,
        certificates: Certificates | None = None,
        splitter: Callable[[], CommandSplitter | PostgreSQLSplitter] = CommandSplitter,
    ) -> None:
        self.host = LOOPBACK
        self.splitter = splitter
        self.port = free_port()
        self.delay = delay
        self.upstream = (host, port)
        self.certificates = certificates
        self.is_deaf = False
        self.is_refusing = False

        # These belong to the loop's thread.
        self.links: set[_Link] = set()
        self._faults: list[_Fault] = []
        self._numbers = itertools.count(1)

        # Guards the record; notified at each command.
        self._record = threading.Condition()
        self._commands: list[Command] = []
        self._connections = 0
        self._refused = 0

        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="tests proxy", daemon=True)
        self._thread.start()
        self._call(self._listen())

    def __repr__(self) -> str:
        state = "deaf" if self.is_deaf else "refusing" if self.is_refusing else "open"
        return f"<Proxy {self.host}:{self.port} to {self.upstream} {state}>"

    def close(self) -> None:
        """Close every connection, stop listening, and end the thread; again is no error."""
        if self.loop.is_closed():
            return
        self._call(self._shut())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_THREAD_TIMEOUT)
        self.loop.close()

    # -- the record ----------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """How many connections were accepted, those refused left out."""
        with self._record:
            return self._connections

    @property
    def refused(self) -> int:
        """How many connections were closed at once because of `refuse()`."""
        with self._record:
            return self._refused

    @property
    def commands(self) -> list[Command]:
        """Every command the clients sent after their handshake, in order."""
        with self._record:
            return list(self._commands)

    @property
    def round_trips(self) -> int:
        """How many times a client sent a command and had to wait for the answer.

        A command without an answer, such as the closing of a statement, is none; a PREPARE and the
        EXECUTE sent along with it are one.
        """
        return sum(command.is_round_trip for command in self.commands)

    def reset_counts(self) -> None:
        """Forget all connections and commands up to now."""
        with self._record:
            self._commands.clear()
            self._connections = self._refused = 0

    def wait_for_command(self, prefix: bytes, timeout: float = 5.0) -> Command:
        """The first recorded command whose text starts so, waiting for it `timeout` seconds."""

        def found() -> Command | None:
            return next((c for c in self._commands if c.starts_with(prefix)), None)

        with self._record:
            command = self._record.wait_for(found, timeout)
            if command is None:
                raise TimeoutError(f"No command {prefix!r} within {timeout} s: {self._commands}")
            return command

    # -- faults --------------------------------------------------------------------------------

    def cut(self) -> None:
        """Reset every open connection, on both sides; new ones are let through."""
        self._call(self._cut())

    def deaf(self) -> None:
        """Forward nothing any more, the end of a connection neither; new ones are accepted."""
        self._call(self._set_deaf(True))

    def hear(self) -> None:
        """Forward again, starting with what was held back."""
        self._call(self._set_deaf(False))

    def refuse(self) -> None:
        """Close new connections at once; open ones go on."""
        self.is_refusing = True

    def accept(self) -> None:
        """Let new connections through again."""
        self.is_refusing = False

    def hold_replies_to(self, prefix: bytes, times: int = 1) -> None:
        """Lose the answers to the next `times` commands whose text starts with `prefix`.

        Such a command reaches the server; when this has answered, the client's connection is
        closed in place of the answer.
        """
        self._call(self._add_fault(_Fault(prefix, times, reaches_server=True)))

    def answer_in_place(self, prefix: bytes, answer: bytes, times: int = 1) -> None:
        """Send `answer` in place of the answers to the next `times` commands whose text starts
        with `prefix`, and then the end. Such a command reaches the server.
        """
        self._call(self._add_fault(_Fault(prefix, times, reaches_server=True, answer=answer)))

    def cut_before(self, prefix: bytes, times: int = 1) -> None:
        """Lose the next `times` commands whose text starts with `prefix`.

        The connection is closed, on both sides, in place of forwarding the command.
        """
        self._call(self._add_fault(_Fault(prefix, times, reaches_server=False)))

    def send_tickets(self) -> None:
        """Send a TLS session ticket to every client: its socket has something to read, and the
        server said nothing. It takes TLS 1.3, and certificates.
        """
        self._call(self._send_tickets())

    # -- in the loop's thread --------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(_THREAD_TIMEOUT)

    async def _listen(self) -> None:
        self._server = await self.loop.create_server(
            lambda: _ClientSide(_Link(self)), self.host, self.port, backlog=_BACKLOG
        )
        DATABASE_PORTS.add(self.port)

    async def _shut(self) -> None:
        self._server.close()
        await self._end_links()
        # Clients that were just being accepted: nobody would ever answer or close them.
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks, timeout=_THREAD_TIMEOUT / 2)
        await self._end_links()
        await self._server.wait_closed()

    async def _cut(self) -> None:
        for link in self.links:
            link.linger_not()
        await self._end_links()

    async def _end_links(self) -> None:
        links = list(self.links)
        for link in links:
            link.abort()
        await asyncio.gather(*(link.closed.wait() for link in links))

    async def _set_deaf(self, deaf: bool) -> None:
        self.is_deaf = deaf
        if not deaf:
            for link in list(self.links):
                link.wake()

    async def _add_fault(self, fault: _Fault) -> None:
        self._faults.append(fault)

    async def _send_tickets(self) -> None:
        for link in self.links:
            link.send_ticket()

    def admit(self) -> int | None:
        """Take a new connection into the record; its number, None if it is to be refused."""
        with self._record:
            if self.is_refusing:
                self._refused += 1
                return None
            self._connections += 1
        return next(self._numbers)

    def fault_for(self, command: Command) -> _Fault | None:
        """Take a command into the record; the fault that strikes it, if any."""
        with self._record:
            self._commands.append(command)
            self._record.notify_all()
        return next((fault for fault in self._faults if fault.strikes(command)), None)


class _Link:
    """One client's connection, its counterpart to the server, and what flows between them."""

    def __init__(self, proxy: Proxy) -> None:
        self.closed = asyncio.Event()
        self._proxy = proxy
        self._number = 0
        self._to_server = _Pipe(proxy)
        self._to_client = _Pipe(proxy)
        self._splitter = proxy.splitter()
        self._dialling: asyncio.Task[None] | None = None
        self._fault: _Fault | None = None  # what happens to the next answer

    def client_came(self, transport: asyncio.Transport) -> None:
        self._proxy.links.add(self)
        self._to_client.open(transport)
        number = self._proxy.admit()
        if number is None:
            transport.close()
            return
        self._number = number
        self.wake()

    def client_sent(self, data: bytes) -> None:
        try:
            data = self._to_client.decrypted(data)
        except ssl.SSLError:
            self._end()
            return
        for packet, command in self._splitter.feed(data):
            kind = self._splitter.command
            fault = command and self._proxy.fault_for(kind(self._number, *command))
            if fault and not fault.reaches_server:
                self._to_client.close()
                return
            self._fault = self._fault or fault
            self._to_server.put(packet)
            if self._splitter.is_encrypted and self._proxy.certificates:
                self._encrypt(self._proxy.certificates)

    def send_ticket(self) -> None:
        self._to_client.send_ticket()

    def client_went(self) -> None:
        self._to_client.target = None
        self._to_server.end()
        self._settle()

    def server_came(self, transport: asyncio.Transport) -> None:
        self._to_server.open(transport)

    def server_sent(self, data: bytes) -> None:
        try:
            data = self._to_server.decrypted(data)
        except ssl.SSLError:
            self._end()
            return
        if not data:  # TLS's own
            return
        if self._fault is None:
            self._to_client.put(data)
        elif self._fault.answer:
            self._to_client.put(self._fault.answer)
            self._to_client.end()
        else:
            self._to_client.close()

    def server_went(self) -> None:
        self._to_server.target = None
        self._to_client.end()
        self._settle()

    def wake(self) -> None:
        """Let flow what waits, and dial the server for a client that came during deafness."""
        if self._proxy.is_deaf:
            return
        if self._dialling is None and self._to_client.target is not None:
            self._dialling = self._proxy.loop.create_task(self._dial())
            self._dialling.add_done_callback(lambda _: self._settle())
        self._to_server.flush()
        self._to_client.flush()

    def linger_not(self) -> None:
        """Let the end of either side be a reset."""
        self._to_client.linger_not()
        self._to_server.linger_not()

    def abort(self) -> None:
        """End both sides at once; `closed` is set when they are gone."""
        if self._dialling is not None:
            self._dialling.cancel()
        self._to_client.abort()
        self._to_server.abort()

    def _encrypt(self, certificates: Certificates) -> None:
        """Go on in TLS on both sides: the client has asked for it, and the server knows."""
        self._to_server.encrypt(certificates.client_end())
        self._to_client.encrypt(certificates.server_end())
        self.client_sent(self._splitter.decrypt())

    def _end(self) -> None:
        """End both sides when they have what waits, such as why their TLS is no good."""
        self._to_client.end()
        self._to_server.end()

    async def _dial(self) -> None:
        try:
            await self._proxy.loop.create_connection(
                lambda: _ServerSide(self), *self._proxy.upstream
            )
        except OSError:
            self._to_client.linger_not()
            self._to_client.abort()

    def _settle(self) -> None:
        dialling = self._dialling is not None and not self._dialling.done()
        if dialling or self._to_client.target is not None or self._to_server.target is not None:
            return
        self._proxy.links.discard(self)
        self.closed.set()


class _ClientSide(asyncio.Protocol):
    """The events of a link's near side."""

    def __init__(self, link: _Link) -> None:
        self._link = link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._link.client_came(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self._link.client_sent(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._link.client_went()


class _ServerSide(asyncio.Protocol):
    """The events of a link's far side."""

    def __init__(self, link: _Link) -> None:
        self._link = link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._link.server_came(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self._link.server_sent(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._link.server_went()


class _Pipe:
    """One direction of a link: keeps what comes until it is due and somebody may have it."""

    def __init__(self, proxy: Proxy) -> None:
        self.target: asyncio.Transport | None = None
        self._proxy = proxy
        self._tls: TLSEnd | None = None
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def open(self, target: asyncio.Transport) -> None:
        self.target = target
        self.flush()

    def encrypt(self, tls: TLSEnd) -> None:
        """Go on in TLS with the target."""
        self._tls = tls
        self._put_raw(tls.outgoing())

    def decrypted(self, data: bytes) -> bytes:
        """What the target meant by what it sent; TLS's own answers are sent to it."""
        if self._tls is None:
            return data
        try:
            return self._tls.receive(data)
        finally:
            self._put_raw(self._tls.outgoing())

    def send_ticket(self) -> None:
        if self._tls is None:
            raise ValueError("There is no TLS here, or none that the proxy can read.")
        self._tls.send_ticket()
        self._put_raw(self._tls.outgoing())

    def put(self, data: bytes) -> None:
        """Send after the proxy's delay."""
        if self._tls is not None:
            self._tls.send(data)
            data = self._tls.outgoing()
        self._put_raw(data)

    def end(self) -> None:
        """Close the target after the proxy's delay."""
        self._keep(_END)

    def _put_raw(self, data: bytes) -> None:
        if data:
            self._keep(data)

    def _keep(self, data: bytes) -> None:
        self._waiting.append((self._proxy.loop.time() + self._proxy.delay, data))
        self.flush()

    def flush(self) -> None:
        """Send what is due, unless nobody may hear, and see to the rest when it is due."""
        if self.target is None or self._proxy.is_deaf:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._proxy.loop.time()
        while self._waiting and self._waiting[0][0] <= now:
            data = self._waiting.popleft()[1]
            if data == _END:
                self.close()
            else:
                self.target.write(data)
        if self._waiting:
            self._timer = self._proxy.loop.call_at(self._waiting[0][0], self.flush)

    def close(self) -> None:
        if self.target is not None:
            self.target.close()

    def linger_not(self) -> None:
        if self.target is not None:
            connection: socket.socket = self.target.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)

    def abort(self) -> None:
        if self.target is not None:
            self.target.abort()
