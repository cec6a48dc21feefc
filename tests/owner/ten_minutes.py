"""From a package in a clean system to two servers that federate, by hearth's commands alone."""

import http.client
import json
import pathlib
import socket
import ssl
import time

from authority import Authority
from certificates import wait_until
from system import System, fresh

NAMESERVER = "127.0.0.153"
LIMIT = 600  # seconds
PASSWORD = "correct horse battery staple"
# Who owns which server, and where it listens on port 443. Nobody else does there.
OWNERS = {"alice": ("first.example", "127.0.0.11"), "bob": ("second.example", "127.0.0.12")}


class Owned:
    """A server in a system of its own."""

    def __init__(self, user, system, authority):
        self.user = user
        self.name, self.address = OWNERS[user]
        self.system = system
        self.authority = authority
        self.token = None

    @property
    def user_id(self):
        return f"@{self.user}:{self.name}"

    def install(self, package, with_systemd):
        """The owner's commands."""
        system, name = self.system, self.name
        if with_systemd:
            system.pretend_systemd()
        # Of this network, in which no name and no authority is public.
        system.put("/etc/hearth/ca.pem", self.authority.ca.read_bytes() + self.authority.roots().encode())
        settings = {
            "acme_directory": self.authority.url,
            "extra_ca": "/etc/hearth/ca.pem",
            "tls_listen": [f"{self.address}:443"],
            "listen": [f"{self.address}:8008"],
            "allow_private_addresses": True,
        }
        system.put("/root/hearth.deb", package.read_bytes())
        system.run("dpkg", "-i", "/root/hearth.deb")
        others = [part for key, value in settings.items() for part in ("--set", f"{key} = {json.dumps(value)}")]
        options = ["--name", name, "--acme", f"you@{name}", "--user", self.user, "--password-stdin"]
        printed = system.run("hearth", "setup", "--yes", *options, *others, input=f"{PASSWORD}\n")
        assert self.user_id in printed and f"homeserver  {name}" in printed, printed
        if with_systemd:
            assert system.systemctl_calls()[-2:] == [
                # That socket is for [::]:443, and this server listens elsewhere.
                "--quiet disable --now hearth-tls.socket",
                "--quiet enable --now hearth.service",
            ], system.systemctl_calls()
        else:
            assert "hearth serve --config /etc/hearth/hearth.toml" in printed, printed
            system.serve("hearth", "serve", "--config", "/etc/hearth/hearth.toml")

    def has_certificate(self):
        status = json.loads(self.system.run("hearth", "status", "--json"))
        return all(certificate["expires_ms"] for certificate in status["certificates"])

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


def federate(alice, bob):
    for owner in (alice, bob):
        owner.log_in()
    room = alice.request("POST", "/createRoom", {"preset": "private_chat", "invite": [bob.user_id]})["room_id"]

    def is_invited():
        return room in bob.request("GET", "/sync?timeout=1000")["rooms"].get("invite", {})

    wait_until(is_invited, "no invitation arrives")
    bob.request("POST", f"/rooms/{room}/join", {})
    for sender, reader in [(bob, alice), (alice, bob)]:
        text = f"hello from {sender.name}"
        sender.request("PUT", f"/rooms/{room}/send/m.room.message/1", {"msgtype": "m.text", "body": text})
        wait_until(lambda: reader.sees(room, text), f"{reader.name} does not get {text!r}")


def run(package, programs, cache, directory, checks):
    package = pathlib.Path(package)
    root = fresh(cache)
    authority = Authority(programs, directory, tls_port=443, http_port=80, nameserver=NAMESERVER)
    owners = []
    try:
        authority.start()
        for name, address in OWNERS.values():
            authority.lead(name, address)
        for user, (name, _) in OWNERS.items():
            owners.append(Owned(user, System(root, directory / name, NAMESERVER), authority))
        started = time.monotonic()
        for owner, with_systemd in zip(owners, (False, True)):
            how = "as a service" if with_systemd else "without a service manager"
            with checks.check(f"{owner.name} is set up from the package by commands alone, {how}"):
                owner.install(package, with_systemd)
        with checks.check("both get their certificates by themselves"):
            for owner in owners:
                wait_until(owner.has_certificate, f"{owner.name} has no certificate")
        with checks.check("their users log in and talk with each other over the federation"):
            federate(*owners)
        seconds = time.monotonic() - started
        with checks.check(f"that took {seconds:.0f} seconds, of at most {LIMIT}"):
            assert seconds <= LIMIT
    finally:
        for owner in owners:
            owner.system.clean_up()
        authority.stop()
