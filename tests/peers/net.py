"""The links between servers: forwarders in front of their TLS ports that cut and heal what they are told to."""

import asyncio
import contextlib
import functools
import pathlib


class Net:
    """Listens where the servers' names say that they are. A link is a pair of servers, who calls and who is
    called; it is whole unless it is in `broken`. Callers that are none of the servers are always let through."""

    def __init__(self, servers):
        self.servers = servers
        self.broken = set()
        # Who forwards what, and on which link
        self._forwarders = {}
        self._listeners = []

    def links(self):
        return [(one, other) for one in self.servers for other in self.servers if one is not other]

    def cut(self, link):
        """Breaks off what goes over the link, and refuses what is to come."""
        self.broken.add(link)
        for forwarder, on in self._forwarders.items():
            if on == link:
                forwarder.cancel()

    def heal(self, link):
        self.broken.discard(link)

    async def __aenter__(self):
        for server in self.servers:
            port = int(server.name.rsplit(":", 1)[1])
            accept = functools.partial(self._accept, server)
            self._listeners.append(await asyncio.start_server(accept, "127.0.0.1", port))
        return self

    async def __aexit__(self, *_):
        for listener in self._listeners:
            listener.close()
        for forwarder in self._forwarders:
            forwarder.cancel()
        await asyncio.gather(*self._forwarders)

    async def _accept(self, server, reader, writer):
        link = self._caller(writer), server
        this = asyncio.current_task()
        self._forwarders[this] = link
        ends = [writer]
        # Breaking off is cancelling, and no failure.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if link not in self.broken:
                inward, outward = await asyncio.open_connection("127.0.0.1", server.tls_port)
                ends.append(outward)
                await asyncio.gather(forward(reader, outward), forward(inward, writer))
        for end in ends:
            end.transport.abort()
        del self._forwarders[this]

    def _caller(self, writer):
        """Whose process has the other end of a connection: Linux tells by the socket's inode."""
        host, port = writer.get_extra_info("peername")
        here = f"0100007F:{port:04X}"
        for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1] == here:
                return next((server for server in self.servers if has_socket(server, fields[9])), None)


def has_socket(server, inode):
    for file in pathlib.Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(file.readlink()) == f"socket:[{inode}]":
                return True
    return False


async def forward(reader, writer):
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
