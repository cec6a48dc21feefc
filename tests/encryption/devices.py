"""Users with several devices. Each device is a real client with encryption."""

import dataclasses
import itertools
import pathlib

from checks import Checks
from client import ENCRYPTED_COMMANDS, UNSUPPORTED, Client
from server import Server

PASSWORD = "correct horse battery staple"


class Device(Client):
    def __init__(self, user, number):
        name = user.name if number == 1 else f"{user.name}-{number}"
        super().__init__(name, user.sdk, user.directory, ENCRYPTED_COMMANDS)
        self.owner = user
        self.id = None

    def __str__(self):
        return self.name


@dataclasses.dataclass
class User:
    name: str
    sdk: str
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

    def supports(self, what):
        return what not in UNSUPPORTED[self.sdk]

    async def register(self):
        """Registers the user and logs in a first device."""
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
        session = await device.call("login", user=device.owner.localpart, password=PASSWORD)
        device.user, device.id = session["user_id"], session["device_id"]
        await device.call("sync")

    async def stop(self):
        for device in self.devices:
            await device.stop()
        self.devices.clear()


@dataclasses.dataclass
class ScenarioContext:
    """`label` names SDKs and servers in checks, `room` is the encrypted room, `sent` maps event ids to texts."""

    checks: Checks
    label: str
    alice: User
    bob: User
    carol: User
    room: str = ""
    sent: dict = dataclasses.field(default_factory=dict)
    numbers: itertools.count = dataclasses.field(default_factory=lambda: itertools.count(1))

    def check(self, text):
        return self.checks.check(f"{self.label}: {text}")

    def both_directions(self):
        return ((self.alice, self.bob), (self.bob, self.alice))

    def devices(self):
        return [*self.alice.devices, *self.bob.devices]

    async def send_text(self, device, text):
        """Sends a text; returns its event id."""
        txn = f"{device}-{next(self.numbers)}"
        content = {"msgtype": "m.text", "body": text}
        sent = await device.call("send", room=self.room, type="m.room.message", content=content, txn=txn)
        self.sent[sent["id"]] = text
        return sent["id"]

    async def wait_until_decrypted(self, id, *devices):
        """Waits until these devices have decrypted an event, and compares the texts."""
        for device in devices:
            observed = await device.wait_for("decrypted", room=self.room, id=id)
            assert observed["body"] == self.sent[id], (observed, self.sent[id])

    async def exchange_messages(self, one, *others):
        """Sends a message that all other devices can decrypt."""
        await self.wait_until_decrypted(await self.send_text(one, f"{one} says {next(self.numbers)}"), *others)
