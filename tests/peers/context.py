"""The context of a scenario, and what scenarios share."""

import contextlib
import dataclasses

from checks import Checks, CheckFailed, assert_equal_lists
from network import Network
from certificates import Certificates
from user import RequestFailed, User, eventually


@dataclasses.dataclass
class Environment:
    """The servers and their users. `network` proxies the links between three servers, `None` with two."""

    checks: Checks
    certificates: Certificates
    users: list[User]
    network: Network | None


@dataclasses.dataclass
class ScenarioContext:
    """One scenario in one direction: `host` creates the rooms, `guest` is on another server."""

    environment: Environment
    host: User
    guest: User
    version: str

    def check(self, text):
        return self.environment.checks.check(f"room version {self.version}, host {self.host}: {text}")

    def both_directions(self):
        return ((self.host, self.guest), (self.guest, self.host))

    def reversed(self):
        return dataclasses.replace(self, host=self.guest, guest=self.host)

    async def run_all(self, *parts):
        """Runs independent parts one after the other. A failed part does not stop the others."""
        for part in parts:
            with contextlib.suppress(CheckFailed):
                await part

    async def create_shared_room(self, **options):
        """Creates a room as the host, invites the guest and joins; returns the room id."""
        room = await self.host.create_room(self.version, preset="private_chat", invite=[self.guest.id], **options)
        await self.guest.wait_for_own_membership(room, "invite")
        await self.guest.join(room)
        await self.wait_for_members(room)
        return room

    async def wait_for_members(self, room):
        await self.guest.wait_for_own_membership(room, "join")
        for one, other in self.both_directions():
            await one.wait_for_member(room, other, "join")

    async def exchange_messages(self, room):
        """Each sends a message and waits for the other's."""
        for one, other in self.both_directions():
            await other.wait_for_event(room, await one.send_text(room, f"a message of {one}"))

    async def wait_for_same_state(self, room):
        """Waits until both servers hold the same state."""

        async def check():
            here, there = [sorted((await one.state(room)).items()) for one in (self.host, self.guest)]
            assert_equal_lists("state", here, there)

        await eventually(check)


@contextlib.asynccontextmanager
async def expect_error(*codes):
    """The block must raise `RequestFailed` with one of these codes (default: `M_FORBIDDEN`)."""
    try:
        yield
    except RequestFailed as error:
        assert error.code in (codes or ("M_FORBIDDEN",)), error
    else:
        raise AssertionError("the request succeeded")
