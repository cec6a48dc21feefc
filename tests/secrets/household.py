"""People with several devices each, every device a real client with encryption."""

import dataclasses
import itertools
import pathlib

from claims import Claims
from client import ENCRYPTED, LACKS, Client
from server import Server

PASSWORD = "correct horse battery staple"


class Device(Client):
    """One device of a person's: a client that is logged in."""

    def __init__(self, person, number):
        name = person.name if number == 1 else f"{person.name}-{number}"
        super().__init__(name, person.kind, person.directory, ENCRYPTED)
        self.person = person
        self.id = None

    def __str__(self):
        return self.name


@dataclasses.dataclass
class Person:
    name: str
    kind: str
    server: Server
    directory: pathlib.Path
    id: str = ""
    recovery_key: str = ""
    devices: list[Device] = dataclasses.field(default_factory=list)
    numbers: itertools.count = dataclasses.field(default_factory=lambda: itertools.count(1))

    def __str__(self):
        return self.name

    @property
    def localpart(self):
        return self.name.lower()

    @property
    def first(self):
        return self.devices[0]

    def can(self, what):
        return what not in LACKS[self.kind]

    async def register(self):
        """With a first device."""
        device = await self._start()
        registered = await device.call("register", user=self.localpart, password=PASSWORD)
        await self._log_in(device)
        self.id = device.user
        assert registered["user_id"] == self.id == f"@{self.localpart}:{self.server.name}", self.id

    async def add_device(self):
        device = await self._start()
        await self._log_in(device)
        return device

    async def _start(self):
        device = Device(self, next(self.numbers))
        await device.start(self.server.url)
        self.devices.append(device)
        return device

    @staticmethod
    async def _log_in(device):
        session = await device.call("login", user=device.person.localpart, password=PASSWORD)
        device.user, device.id = session["user_id"], session["device_id"]
        await device.call("sync")

    async def stop(self):
        for device in self.devices:
            await device.stop()
        self.devices.clear()


@dataclasses.dataclass
class Stage:
    """Who and what the scenario has to do with; `play` is what the play is called, `room` the encrypted one."""

    claims: Claims
    play: str
    alice: Person
    bob: Person
    carol: Person
    room: str = ""
    said: dict = dataclasses.field(default_factory=dict)
    numbers: itertools.count = dataclasses.field(default_factory=lambda: itertools.count(1))

    def claim(self, text):
        return self.claims.claim(f"{self.play}: {text}")

    def both_ways(self):
        return ((self.alice, self.bob), (self.bob, self.alice))

    def devices(self):
        return [*self.alice.devices, *self.bob.devices]

    async def say(self, device, text):
        """Sends a text and returns its event id."""
        txn = f"{device}-{next(self.numbers)}"
        content = {"msgtype": "m.text", "body": text}
        sent = await device.call("send", room=self.room, type="m.room.message", content=content, txn=txn)
        self.said[sent["id"]] = text
        return sent["id"]

    async def is_read(self, id, *devices):
        """Waits until these devices can read an event, and compares the texts."""
        for device in devices:
            seen = await device.sees("secret", room=self.room, id=id)
            assert seen["body"] == self.said[id], (seen, self.said[id])

    async def talk(self, one, *others):
        """Says something that all of the others can read."""
        await self.is_read(await self.say(one, f"{one} says {next(self.numbers)}"), *others)
