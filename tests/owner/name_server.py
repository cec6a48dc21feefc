"""A name server on the loopback."""

import ipaddress
import socketserver
import struct
import threading

TYPES = {"A": 1, "CNAME": 5, "AAAA": 28, "SRV": 33}
INTERNET = 1
NO_ERROR, SERVER_FAILURE, NO_SUCH_NAME = 0, 2, 3
RESPONSE, RECURSION_AVAILABLE = 0x8000, 0x0080
TTL = 1  # seconds
# Instead of records: queries for them fail.
FAILS = "fails"


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


class NameServer:
    """Answers what `records` has by name and type: texts as in a zone file. An alias is followed to names that it has
    too. Names of which it has nothing lead to `default`, if that is given. `records` may be changed at any time."""

    def __init__(self, address, port, records, default=None):
        self.records, self.default = records, default
        answer = self._answer

        class Datagram(socketserver.BaseRequestHandler):
            def handle(self):
                query, sock = self.request
                sock.sendto(answer(query), self.client_address)

        class Stream(socketserver.StreamRequestHandler):
            def handle(self):
                while length := self.rfile.read(2):
                    reply = answer(self.rfile.read(*struct.unpack("!H", length)))
                    self.wfile.write(struct.pack("!H", len(reply)) + reply)

        by_tcp = Server((address, port), Stream)
        by_udp = socketserver.UDPServer(by_tcp.server_address, Datagram)
        self.servers = [by_tcp, by_udp]
        self.address = "{}:{}".format(*by_tcp.server_address)
        for server in self.servers:
            threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()

    def stop(self):
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def _answer(self, query):
        identifier, flags = struct.unpack("!HH", query[:4])
        name, end = read_name(query, 12)
        kind, _ = struct.unpack("!HH", query[end : end + 4])
        kind = next((text for text, number in TYPES.items() if number == kind), None)
        code, answers = self._find(name.lower(), kind)
        flags = RESPONSE | flags & 0x0100 | RECURSION_AVAILABLE | code
        head = struct.pack("!HHHHHH", identifier, flags, 1, len(answers), 0, 0)
        return head + query[12 : end + 4] + b"".join(answers)

    def _find(self, name, kind):
        records = self.records.get((name, kind), [])
        if records == FAILS:
            return SERVER_FAILURE, []
        alias = self.records.get((name, "CNAME"))
        if alias:
            code, more = self._find(alias, kind)
            return code, [record(name, "CNAME", alias), *more]
        is_known = any(self.records.get((name, other)) is not None for other in TYPES)
        if not is_known and self.default:
            records = [self.default] if kind == "A" else []
        elif not is_known:
            return NO_SUCH_NAME, []
        return NO_ERROR, [record(name, kind, text) for text in records]


def read_name(message, at):
    """A name that is not compressed, and where it ends."""
    labels = []
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    return ".".join(labels), at + 1


def written_name(name):
    labels = [label.encode("ascii") for label in name.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def record(name, kind, text):
    if kind == "SRV":
        priority, weight, port, host = text.split()
        data = struct.pack("!HHH", int(priority), int(weight), int(port)) + written_name(host)
    elif kind == "CNAME":
        data = written_name(text)
    else:
        data = ipaddress.ip_address(text).packed
    return written_name(name) + struct.pack("!HHIH", TYPES[kind], INTERNET, TTL, len(data)) + data
