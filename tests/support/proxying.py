"""The program behind `tests.support.network.Proxy`: a TCP proxy that is told on its input how its link behaves.

A process of its own, so that a busy test does not slow the link; it ends with its standard input. Started with the
address to listen on and the one to forward to, HOST:PORT or the path of a unix socket; says the port it listens on,
then answers each command, a line of JSON, with its counters.
"""

import asyncio
import json
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

CHUNK_BYTES = 64 * 1024
CHUNKS_UNDER_WAY = 256
QUEUE = 128
"""Connections that wait to be accepted."""
DIRECTIONS = ("to_server", "to_client")
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, for 0 seconds

Chunk = tuple[float, bytes]
"""When it is due, by the loop's clock, and what; no bytes are the end."""


class Link:
    """How the link behaves now, and what has gone over it."""

    def __init__(self) -> None:
        self.open_gates = {direction: asyncio.Event() for direction in DIRECTIONS}
        for gate in self.open_gates.values():
            gate.set()
        self.delay_seconds = 0.0
        self.connections: dict[asyncio.Task[None], tuple[socket.socket, ...]] = {}
        self.accepted = 0
        self.bytes = dict.fromkeys(DIRECTIONS, 0)

    def counters(self) -> dict[str, int]:
        return {
            "accepted": self.accepted,
            "connected": len(self.connections),
            "bytes_to_server": self.bytes["to_server"],
            "bytes_to_client": self.bytes["to_client"],
        }


class Proxying:
    """Accepts, forwards, and obeys."""

    def __init__(self, listen: tuple[str, int], target: str) -> None:
        self.link = Link()
        self._target = target
        self._listener: socket.socket | None = None
        self._filler: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._address = listen
        self._accept_all()
        self._address = self._open_listener().getsockname()

    @property
    def port(self) -> int:
        return self._address[1]

    def _open_listener(self) -> socket.socket:
        if self._listener is None:
            self._listener = socket.create_server(self._address)
            self._listener.setblocking(False)
        return self._listener

    def _accept_all(self) -> None:
        listener = self._open_listener()
        listener.listen(QUEUE)
        if self._filler is not None:
            self._filler.close()
            self._filler = None
        if self._accepting is None:
            self._accepting = asyncio.get_running_loop().create_task(self._accept(listener))

    async def _accept_nobody(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
            self._accepting = None

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            self.link.accepted += 1
            client.setblocking(False)
            task = loop.create_task(self._serve(client))
            self.link.connections[task] = (client,)
            task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        for one in self.link.connections.pop(task):
            one.close()

    async def _serve(self, client: socket.socket) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            server = await self._reach()
            self.link.connections[task] = (client, server)
            async with asyncio.TaskGroup() as pumps:
                self._pump(pumps, client, server, "to_server")
                self._pump(pumps, server, client, "to_client")
        except* OSError:
            pass  # one side is gone: so is the connection

    async def _reach(self) -> socket.socket:
        is_path = self._target.startswith("/")
        host, _, port = self._target.rpartition(":")
        server = socket.socket(socket.AF_UNIX if is_path else socket.AF_INET)
        server.setblocking(False)
        await asyncio.get_running_loop().sock_connect(server, self._target if is_path else (host, int(port)))
        if not is_path:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return server

    def _pump(self, pumps: asyncio.TaskGroup, source: socket.socket, sink: socket.socket, direction: str) -> None:
        chunks: asyncio.Queue[Chunk] = asyncio.Queue(CHUNKS_UNDER_WAY)
        pumps.create_task(self._read(source, chunks))
        pumps.create_task(self._write(sink, chunks, direction))

    async def _read(self, source: socket.socket, chunks: asyncio.Queue[Chunk]) -> None:
        loop = asyncio.get_running_loop()
        data = b"more"
        while data:
            data = await loop.sock_recv(source, CHUNK_BYTES)
            await chunks.put((loop.time() + self.link.delay_seconds, data))

    async def _write(self, sink: socket.socket, chunks: asyncio.Queue[Chunk], direction: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await chunks.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            await self.link.open_gates[direction].wait()
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(sink, data)
            self.link.bytes[direction] += len(data)

    # Commands

    async def obey(self, command: str, **arguments: Any) -> None:
        await getattr(self, f"do_{command}")(**arguments)

    async def do_count(self) -> None:
        pass

    async def do_freeze(self, to_server: bool, to_client: bool) -> None:
        for direction, frozen in (("to_server", to_server), ("to_client", to_client)):
            if frozen:
                self.link.open_gates[direction].clear()

    async def do_cut(self, refuse: bool) -> None:
        await self.do_freeze(to_server=True, to_client=True)
        await self._accept_nobody()
        listener = self._open_listener()
        if refuse:
            listener.close()
            self._listener = None
        elif self._filler is None:
            # With its queue full, the kernel drops whatever else asks for a connection: nobody answers. Somebody else
            # may have filled it at this moment, so this does not wait for its own place.
            listener.listen(0)
            self._filler = socket.socket()
            self._filler.setblocking(False)
            self._filler.connect_ex(self._address)

    async def do_resume(self) -> None:
        self._accept_all()
        self.link.delay_seconds = 0.0
        for gate in self.link.open_gates.values():
            gate.set()

    async def do_delay(self, seconds: float) -> None:
        self.link.delay_seconds = seconds

    async def do_reset(self) -> None:
        connections = dict(self.link.connections)
        for task, sockets in connections.items():
            for one in sockets:
                with suppress(OSError):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def main(say: Callable[[object], None]) -> None:
    host, _, port = sys.argv[1].rpartition(":")
    proxying = Proxying((host, int(port)), sys.argv[2])
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    say({"port": proxying.port})
    while line := await commands.readline():
        await proxying.obey(**json.loads(line))
        await asyncio.sleep(0)  # whoever has just been cancelled or let go takes its turn first
        say(proxying.link.counters())


def _say(answer: object) -> None:
    sys.stdout.write(f"{json.dumps(answer)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(_say))
