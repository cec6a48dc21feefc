"""A short chat on a server: `chat.py COMMAND...`. COMMAND is the binary, or an emulator with the binary.

Needs only Python. Ends with the line `N passed, N failed`."""

import contextlib
import http.client
import json
import pathlib
import ssl
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests/common"))

from checks import CheckFailed, Checks
from server import Hearth, free_port

CERTIFICATES = ROOT / "src/http/tests"
CLIENT = "/_matrix/client/v3"
PASSWORD = "correct horse battery"

# The cipher suites of rustls with ring, for each of which ring has code of its own
CIPHERS = {
    "TLS 1.3": None,
    "TLS 1.2 with AES-128-GCM": "ECDHE+AESGCM+AES128",
    "TLS 1.2 with AES-256-GCM": "ECDHE+AESGCM+AES256",
    "TLS 1.2 with ChaCha20-Poly1305": "ECDHE+CHACHA20",
}


class User:
    def __init__(self, server, name):
        self.server = server
        self.name = name
        self.token = None

    def call(self, method, path, body=None, connection=None):
        connection = connection or http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        with contextlib.closing(connection):
            headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
            connection.request(method, CLIENT + path, body and json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read()
            if response.status != 200:
                raise AssertionError(f"{method} {path}: {response.status} {text[:200]}")
            return json.loads(text)

    def register(self):
        self.call("POST", "/register", {"username": self.name, "password": PASSWORD, "auth": {"type": "m.login.dummy"}})

    def log_in(self):
        identifier = {"type": "m.id.user", "user": self.name}
        login = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
        self.token = self.call("POST", "/login", login)["access_token"]

    def send_text(self, room, text):
        message = {"msgtype": "m.text", "body": text}
        return self.call("PUT", f"/rooms/{room}/send/m.room.message/{text}", message)["event_id"]

    def message_bodies(self, room):
        page = self.call("GET", f"/rooms/{room}/messages?dir=b&limit=100")
        return [event["content"]["body"] for event in reversed(page["chunk"]) if event["type"] == "m.room.message"]


def chat(checks, server):
    with checks.check("the server starts"):
        server.start()
    alice, bob = User(server, "alice"), User(server, "bob")
    with checks.check("two users register and log in"):
        for user in alice, bob:
            user.register()
            user.log_in()
    with checks.check("one creates a room, the other joins and receives a message"):
        room = alice.call("POST", "/createRoom", {"preset": "public_chat"})["room_id"]
        bob.call("POST", f"/join/{room}", {})
        since = bob.call("GET", "/sync")["next_batch"]
        event = alice.send_text(room, "one")
        timeline = bob.call("GET", f"/sync?since={since}&timeout=10000")["rooms"]["join"][room]["timeline"]
        assert [synced["event_id"] for synced in timeline["events"]] == [event], timeline
    with checks.check("the message is stored after a restart"):
        status = server.stop()
        assert status == 0, status
        server.start()
        assert bob.message_bodies(room) == ["one"], bob.message_bodies(room)
    with checks.check("acknowledged messages are stored after SIGKILL"):
        bob.send_text(room, "two")
        server.kill()
        server.start()
        assert alice.message_bodies(room) == ["one", "two"], alice.message_bodies(room)
    for name, ciphers in CIPHERS.items():
        with checks.check(f"{name} is supported"):
            context = ssl.create_default_context(cafile=CERTIFICATES / "root.pem")
            if ciphers:
                context.maximum_version = ssl.TLSVersion.TLSv1_2
                context.set_ciphers(ciphers)
            tls = http.client.HTTPSConnection("localhost", server.tls_port, timeout=60, context=context)
            assert alice.call("GET", "/account/whoami", connection=tls)["user_id"] == "@alice:localhost"
    with checks.check(f"the server responds; resident memory with the emulator: {server.resident()} kB"):
        assert bob.send_text(room, "three")


class Emulated(Hearth):
    def __init__(self, command, directory):
        self.tls_port = free_port()
        super().__init__(
            command[-1],
            "localhost",
            directory,
            tls_listen=[f"127.0.0.1:{self.tls_port}"],
            tls_certificate=str(CERTIFICATES / "localhost.pem"),
            tls_key=str(CERTIFICATES / "localhost.key.pem"),
        )
        self.port = int(self.url.rsplit(":", 1)[1])
        self.command = command[:-1] + self.command

    def resident(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))


def main():
    checks = Checks()
    with tempfile.TemporaryDirectory(prefix="hearth-cross-") as directory:
        server = Emulated(sys.argv[1:], pathlib.Path(directory))
        try:
            chat(checks, server)
        except CheckFailed:
            print(server.log.read_text()[-4000:])
        finally:
            server.clean_up()
    print(f"{checks.passed} passed, {checks.failed} failed")
    return checks.failed > 0 or checks.passed == 0


if __name__ == "__main__":
    sys.exit(main())
