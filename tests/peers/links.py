"""Three servers in one room. Users send messages, change state and ban each other concurrently, while the
links between the servers are cut and restored at random. Afterwards all servers must have the same events and
the correct state."""

import asyncio
import contextlib
import random

from checks import assert_equal_lists
from liar import Liar, references
from oracle import Oracle
from user import DEADLINE, RequestFailed, User, eventually

ACTIONS_PER_USER = 50
# How long until a link changes, and until a user acts again, in seconds
LINK_INTERVAL = (0.05, 0.5)
ACTION_INTERVAL = (0, 0.2)
DELIVERY_TIMEOUT = 2 * DEADLINE
# How often each moderator sends a final message, to merge the forward extremities
FINAL_ROUNDS = 3
LEVELS, TEST_STATE = "m.room.power_levels", "test.state"


class Room:
    """`moderators` have power and stay; `members` join, leave, and have the power levels they are given."""

    def __init__(self, ctx, rng):
        self.ctx = ctx
        self.rng = rng
        self.moderators = ctx.environment.users
        self.members = [
            User(moderator.server, f"{name}-{ctx.version}-{number}")
            for number, moderator in enumerate(self.moderators)
            for name in ("dora", "emil")
        ]
        self.id = None
        # Ids of all events that a server has acknowledged
        self.sent = []

    async def create(self):
        creator = self.moderators[0]
        levels = {"users": {moderator.id: 75 for moderator in self.moderators[1:]}}
        if int(self.ctx.version) < 12:
            levels["users"][creator.id] = 100
        self.id = await creator.create_room(
            self.ctx.version, preset="public_chat", power_level_content_override=levels
        )
        for user in self.moderators[1:] + self.members:
            await user.join(self.id, via=creator)
        for moderator in self.moderators:
            for user in self.moderators + self.members:
                await moderator.wait_for_member(self.id, user, "join")

    async def act(self, user):
        rng = random.Random(self.rng.random())
        for _ in range(ACTIONS_PER_USER):
            await asyncio.sleep(rng.uniform(*ACTION_INTERVAL))
            with contextlib.suppress(RequestFailed):
                await (self.moderate if user in self.moderators else self.participate)(user, rng)

    async def moderate(self, user, rng):
        action = rng.random()
        target = rng.choice(self.members)
        if action < 0.2:
            await user.change_membership(rng.choice(("ban", "unban", "kick")), self.id, target)
        elif action < 0.3:
            levels = await user.request("GET", "rooms", self.id, "state", LEVELS, "")
            users = levels["users"] | {target.id: rng.choice((0, 25, 50))}
            if user is self.moderators[0]:
                users[rng.choice(self.moderators[1:]).id] = rng.choice((60, 75))
            self.sent.append(await user.set_state(self.id, LEVELS, levels | {"users": users}))
        else:
            await self.send_event(user, rng)

    async def participate(self, user, rng):
        action = rng.random()
        if action < 0.2:
            await user.join(self.id)
        elif action < 0.25:
            await user.change_membership("leave", self.id)
        else:
            await self.send_event(user, rng)

    async def send_event(self, user, rng):
        if rng.random() < 0.3:
            key, value = rng.choice("abc"), {"value": rng.random() > 0.5, "by": user.id}
            self.sent.append(await user.set_state(self.id, TEST_STATE, value, key))
        else:
            self.sent.append(await user.send_text(self.id, f"{user} says {rng.random()}"))


async def links(ctx):
    network = ctx.environment.network
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    room = Room(ctx, rng)
    try:
        with ctx.check("three moderators and six members on three servers join a room"):
            await asyncio.gather(*(member.start(sync=False) for member in room.members))
            await room.create()
        with ctx.check(f"all users act concurrently while links are cut and restored (seed {seed})"):
            changing = asyncio.create_task(change_links(network, rng))
            try:
                async with asyncio.TaskGroup() as group:
                    for user in room.moderators + room.members:
                        group.create_task(room.act(user))
            finally:
                changing.cancel()
                for link in network.links():
                    network.restore(link)
        with ctx.check("with all links restored, messages of every moderator arrive everywhere"):
            for moderator in room.moderators:
                await send_to_all(room, moderator, f"{moderator} is back")
        async with Liar(ctx.environment.certificates) as witness:
            await compare_servers(ctx, room, witness)
    finally:
        for member in room.members:
            await member.stop()


async def change_links(network, rng):
    while True:
        await asyncio.sleep(rng.uniform(*LINK_INTERVAL))
        link = rng.choice(network.links())
        (network.restore if link in network.cut_links else network.cut)(link)


async def send_to_all(room, sender, text):
    """Sends a message and waits until all moderators have received it; returns its id."""
    event = await sender.send_text(room.id, text)
    await asyncio.gather(*(user.wait_for_event(room.id, event, DELIVERY_TIMEOUT) for user in room.moderators))
    return event


async def compare_servers(ctx, room, witness):
    """The witness joins at the end and requests every event from every server."""
    first, *others = room.moderators
    with ctx.check("all three servers have the same state"):
        await witness.join(first.server.name, room.id, ctx.version)
        # One event has a limited number of prev_events, so it takes several to merge all extremities.
        for moderator in room.moderators[::-1] * FINAL_ROUNDS:
            end = await send_to_all(room, moderator, "the end")

        async def check():
            for other in others:
                states = [sorted((await user.state(room.id)).items()) for user in (first, other)]
                assert_equal_lists("state", *states)

        await eventually(check)
    with ctx.check(f"{first}'s server has all acknowledged events"):
        events = await eventually(lambda: all_events(witness, first, room.id, end))
        lost = [id for id in room.sent if id not in events]
        assert not lost, "acknowledged, but not before the end: " + await describe(witness, room, lost[0])
    await ctx.run_all(
        *(same_events(ctx, witness, other, room.id, events) for other in others),
        correct_state(ctx, room.id, events, end),
    )


async def describe(witness, room, id):
    """The responses of all servers to a request for an event."""
    responses = [await witness.request(user.server.name, "GET", "event", id) for user in room.moderators]
    texts = [f"{user}'s server: {response}" for user, response in zip(room.moderators, responses)]
    return f"{id}; " + "; ".join(texts)


async def same_events(ctx, witness, user, room, events):
    with ctx.check(f"{user}'s server has the same events"):

        async def check():
            await user.history(room)
            responses = [await witness.request(user.server.name, "GET", "event", id) for id in events]
            missing = [id for id, (status, _) in zip(events, responses) if status != 200]
            assert not missing, f"missing: {missing}"

        await eventually(check)


async def correct_state(ctx, room, events, end):
    forks = sum(len(event["prev_events"]) > 1 for event in events.values())
    with ctx.check(f"the state is the oracle's for {len(events)} events with {forks} merged forks"):
        state = Oracle(ctx.version, events.values()).state_after(end)
        assert_equal_lists("state", sorted((await ctx.host.state(room)).items()), sorted(state.items()))


async def all_events(witness, user, room, end):
    """Id -> event: `end` and all events before it, from the user's server."""
    server = user.server.name
    events, pending = {}, {end}
    # Paging back makes the server fetch events that are missing and not needed for the state.
    await user.history(room)
    while pending:
        ids = pending - events.keys()
        responses = await asyncio.gather(*(witness.request(server, "GET", "event", id) for id in ids))
        for id, (status, response) in zip(ids, responses):
            assert status == 200, f"{server} does not have {id}, which another event refers to: {response}"
            events[id] = response["pdus"][0]
        pending = {parent for id in ids for parent in parents(events[id])} - events.keys()
    return events


def parents(event):
    return references(event, "prev_events") + references(event, "auth_events")
