"""What a scenario has to do with, and what scenarios share."""

import contextlib
import dataclasses

from claims import Claims, Failed, equal
from net import Net
from trust import Trust
from user import Refused, User, eventually


@dataclasses.dataclass
class Cast:
    """Who has met for some scenarios; `net` are the links between three servers."""

    claims: Claims
    trust: Trust
    people: list[User]
    net: Net | None


@dataclasses.dataclass
class Play:
    """One scenario in one direction: `host` has the rooms, `guest` lives on another server."""

    cast: Cast
    host: User
    guest: User
    version: str

    def claim(self, text):
        return self.cast.claims.claim(f"version {self.version} at {self.host}'s: {text}")

    def both_ways(self):
        return ((self.host, self.guest), (self.guest, self.host))

    def other_way(self):
        return dataclasses.replace(self, host=self.guest, guest=self.host)

    async def each(self, *scenes):
        """Plays scenes that do not depend on each other: one that fails stops no other."""
        for scene in scenes:
            with contextlib.suppress(Failed):
                await scene

    async def meet(self, **more):
        """Returns a new room of the host's, in which the guest is."""
        room = await self.host.create(self.version, preset="private_chat", invite=[self.guest.id], **more)
        await self.guest.sees_self(room, "invite")
        await self.guest.join(room)
        await self.see_each_other(room)
        return room

    async def see_each_other(self, room):
        await self.guest.sees_self(room, "join")
        for one, other in self.both_ways():
            await one.sees_member(room, other, "join")

    async def talk(self, room):
        """Each says something that the other sees."""
        for one, other in self.both_ways():
            await other.sees(room, await one.say(room, f"{one} can be heard"))

    async def agree(self, room):
        """Waits until both servers hold the same state."""

        async def check():
            here, there = [sorted((await one.state(room)).items()) for one in (self.host, self.guest)]
            equal("state", here, there)

        await eventually(check)


@contextlib.asynccontextmanager
async def refused(*codes):
    """The server refuses what is tried, with one of these codes (`M_FORBIDDEN` if none is given)."""
    try:
        yield
    except Refused as refusal:
        assert refusal.code in (codes or ("M_FORBIDDEN",)), refusal
    else:
        raise AssertionError("it was allowed")
