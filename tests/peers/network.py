"""Network partitions: TCP proxies in front of the TLS ports of the servers, which can cut links."""

import asyncio
import contextlib
import functools
import pathlib


class Network:
    """Listens on the ports in the servers' names. A link is a pair of servers: client and destination. It
    works unless it is in `cut_links`. Connections of other clients are always forwarded."""

    def __init__(self, servers):
        self.servers = servers
        self.cut_links = set()
        # Task -> link
        self._forwarders = {}
        self._listeners = []

    def links(self):
        return [(one, other) for one in self.servers for other in self.servers if one is not other]

    def cut(self, link):
        """Closes the connections over a link, and refuses new ones."""
        self.cut_links.add(link)
        for forwarder, on in self._forwarders.items():
            if on == link:
                forwarder.cancel()

    def restore(self, link):
        self.cut_links.discard(link)

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
        link = self._client(writer), server
        task = asyncio.current_task()
        self._forwarders[task] = link
        ends = [writer]
        # `cut` cancels this task.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if link not in self.cut_links:
                inward, outward = await asyncio.open_connection("127.0.0.1", server.tls_port)
                ends.append(outward)
                await asyncio.gather(forward(reader, outward), forward(inward, writer))
        for end in ends:
            end.transport.abort()
        del self._forwarders[task]

    def _client(self, writer):
        """The server whose process has the other end of a connection, by the socket's inode in `/proc`."""
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
