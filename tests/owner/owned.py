"""Servers of owners, each in a system of its own, with an authority and name servers for all."""

import collections
import contextlib
import http.client
import json
import re
import signal
import socket
import ssl

from authority import Authority
from certificates import wait_until
from name_server import NameServer
from system import System, fresh

PASSWORD = "correct horse battery staple"
SETTINGS = "/etc/hearth/hearth.toml"
DATA = "/var/lib/hearth"
DISK = 96  # MiB
# Nobody else listens at these addresses on ports 443 and 53.
NAME_SERVERS = [f"127.0.0.{number}" for number in (153, 154, 155)]

Person = collections.namedtuple("Person", ["user", "name", "address"])
ALICE = Person("alice", "first.example", "127.0.0.11")
BOB = Person("bob", "second.example", "127.0.0.12")
CAROL = Person("carol", "third.example", "127.0.0.13")


class World:
    """The network: `records` are what everybody finds in the DNS."""

    def __init__(self, package, programs, cache, directory):
        self.package = package
        self.fresh = fresh(cache)
        self.directory = directory
        self.authority = Authority(programs, directory, tls_port=443, http_port=80)
        self.records = {("localhost", "A"): ["127.0.0.1"]}
        self.owned = []

    def __enter__(self):
        self.authority.start()
        for _, name, address in (ALICE, BOB, CAROL):
            self.records[name, "A"] = [address]
            self.authority.lead(name, address)
        return self

    def __exit__(self, *_):
        for owned in self.owned:
            owned.clean_up()
        self.authority.stop()

    def own(self, person, **more):
        """A system in which nothing was installed."""
        owned = Owned(self, person, NAME_SERVERS[len(self.owned)], **more)
        self.owned.append(owned)
        return owned


class Owned:
    """A server in a system of its own. `records` are what only it finds in the DNS."""

    def __init__(self, world, person, name_server, notary, is_service):
        self.world, self.notary, self.is_service = world, notary, is_service
        self.user, self.name, self.address = person
        self.user_id = f"@{self.user}:{self.name}"
        self.authority = world.authority
        self.records = {}
        self.name_server = NameServer(name_server, 53, collections.ChainMap(self.records, world.records))
        self.system = System(world.fresh, world.directory / self.name, name_server)
        # How fast a disk is that others use too, is nothing to test.
        self.system.small_disk(DATA, DISK)
        self.token = None

    def install(self, *options, **settings):
        """The owner's commands: of `hearth setup` the options and settings that only this one has."""
        system = self.system
        if self.is_service:
            system.pretend_systemd()
        # Of this network, in which no name and no authority is public.
        system.put("/etc/hearth/ca.pem", self.authority.ca.read_bytes() + self.authority.roots().encode())
        settings |= {
            "extra_ca": "/etc/hearth/ca.pem",
            "listen": [f"{self.address}:8008"],
            "notaries": [self.notary],
            "allow_private_addresses": True,
        }
        system.put("/root/hearth.deb", self.world.package.read_bytes())
        system.run("dpkg", "-i", "/root/hearth.deb")
        options = [*options, "--name", self.name, "--user", self.user, "--password-stdin"]
        for key, value in settings.items():
            options += ["--set", f"{key} = {json.dumps(value)}"]
        printed = system.run("hearth", "setup", "--yes", *options, input=f"{PASSWORD}\n")
        assert self.user_id in printed and f"homeserver  {self.name}" in printed, printed
        if not self.is_service:
            assert f"hearth serve --config {SETTINGS}" in printed, printed
            self._serve()

    def install_with_certificate(self):
        """With TLS and a certificate of its own."""
        here = {"acme_directory": self.authority.url, "tls_listen": [f"{self.address}:443"]}
        self.install("--acme", f"you@{self.name}", **here)

    def has_certificate(self):
        status = json.loads(self.system.run("hearth", "status", "--json"))
        return all(certificate["expires_ms"] for certificate in status["certificates"])

    def order_failure(self):
        """Why the last order of a certificate failed, if it did."""
        status = json.loads(self.system.run("hearth", "status", "--json"))
        return status["certificates"][0]["failure"]

    def certificate(self):
        return ssl.get_server_certificate((self.address, 443))

    def doctor(self):
        """Whether all is green, and what else is to be said, a line for each finding that is not in order."""
        finished = self.system.try_to_run("hearth", "doctor", "--json")
        assert finished.stdout, finished.stderr
        report = json.loads(finished.stdout)
        # Nothing is said about where backups go, so doctor says that it knows of none.
        findings = [it for it in report["findings"] if it["state"] != "ok" and it["check"] != "backup"]
        has_error = any(finding["state"] == "error" for finding in findings)
        assert (finished.returncode == 0) == report["green"] == (not has_error), (finished.returncode, report)
        words = [f"{it['check']} {it['state']}: {it['problem']} {it['advice']}" for it in findings]
        return report["green"], words

    def restart(self):
        if self.is_service:
            self.system.run("systemctl", "restart", "hearth")
        else:
            self.system.stop_serving()
            self._serve()
        # A stopped server removes it. Its listeners are there before.
        wait_until((self.system.root / DATA.lstrip("/") / "hearth.sock").exists, f"{self.name} does not start")

    def reload(self):
        if self.is_service:
            self.system.run("systemctl", "reload", "hearth")
        else:
            self.system.server.send_signal(signal.SIGHUP)

    @contextlib.contextmanager
    def changed(self, path, change):
        """Another content of a file of the system, with a restart before and after."""
        before = self.system.get(path)
        after = change(before)
        assert after != before, f"{path} stays as it is"
        try:
            self.system.put(path, after)
            self.restart()
            yield
        finally:
            self.system.put(path, before)
            self.restart()

    def set(self, **settings):
        """Other settings for a while."""

        def change(text):
            for key, value in settings.items():
                text = re.sub(rf"^{key} = .*\n", "", text, flags=re.MULTILINE)
                text = f"{key} = {json.dumps(value)}\n{text}"
            return text

        return self.changed(SETTINGS, change)

    def request(self, method, path, body=None):
        """As an app that trusts the authority."""
        context = ssl.create_default_context(cadata=self.authority.roots())
        connection = http.client.HTTPSConnection(self.name, context=context, timeout=30)
        connect = lambda _address, *rest, **more: socket.create_connection((self.address, 443), *rest, **more)
        connection._create_connection = connect
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        connection.request(method, f"/_matrix/client/v3{path}", json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        assert response.status == 200, f"{method} {path}: {response.status} {answer}"
        return answer

    def log_in(self):
        identifier = {"type": "m.id.user", "user": self.user}
        login = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
        self.token = self.request("POST", "/login", login)["access_token"]

    def sees(self, room, text):
        events = self.request("GET", f"/rooms/{room}/messages?dir=b&limit=20")["chunk"]
        return any(event["content"].get("body") == text for event in events)

    def clean_up(self):
        self.system.clean_up()
        self.name_server.stop()

    def _serve(self):
        self.system.serve("hearth", "serve", "--config", SETTINGS)
