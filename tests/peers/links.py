"""Three servers in one room, where people talk, change the state and ban each other all at once, while the links
between the servers are cut and healed at random. When the links are whole again, all must agree, and be right."""

import asyncio
import contextlib
import random

from claims import equal
from liar import Liar
from oracle import Oracle
from user import DEADLINE, Refused, User, eventually

ACTIONS = 50
# How long links stay as they are, and how long people think, in seconds
WEATHER = (0.05, 0.5)
PAUSE = (0, 0.2)
SETTLE = 2 * DEADLINE
# How often everybody speaks before all is judged
ROUNDS = 3
LEVELS, THING = "m.room.power_levels", "test.thing"


class Crowd:
    """`people` have power and stay; the others come and go, and have what power they are given."""

    def __init__(self, play, dice):
        self.play = play
        self.dice = dice
        self.people = play.cast.people
        self.others = [
            User(one.server, f"{name}-{play.version}-{place}")
            for place, one in enumerate(self.people)
            for name in ("dora", "emil")
        ]
        self.room = None
        # Ids of all events that a server has acknowledged
        self.sent = []

    async def gather(self):
        host = self.people[0]
        powers = {"users": {one.id: 75 for one in self.people[1:]}}
        if int(self.play.version) < 12:
            powers["users"][host.id] = 100
        self.room = await host.create(
            self.play.version, preset="public_chat", power_level_content_override=powers
        )
        for one in self.people[1:] + self.others:
            await one.join(self.room, via=host)
        for one in self.people:
            for other in self.people + self.others:
                await one.sees_member(self.room, other, "join")

    async def act(self, one):
        dice = random.Random(self.dice.random())
        for _ in range(ACTIONS):
            await asyncio.sleep(dice.uniform(*PAUSE))
            with contextlib.suppress(Refused):
                await (self.rule if one in self.people else self.live)(one, dice)

    async def rule(self, one, dice):
        """What those with power do."""
        what = dice.random()
        other = dice.choice(self.others)
        if what < 0.2:
            await one.act(dice.choice(("ban", "unban", "kick")), self.room, other)
        elif what < 0.3:
            levels = await one.ask("GET", "rooms", self.room, "state", LEVELS, "")
            users = levels["users"] | {other.id: dice.choice((0, 25, 50))}
            if one is self.people[0]:
                users[dice.choice(self.people[1:]).id] = dice.choice((60, 75))
            self.sent.append(await one.set(self.room, LEVELS, levels | {"users": users}))
        else:
            await self.chat(one, dice)

    async def live(self, one, dice):
        what = dice.random()
        if what < 0.2:
            await one.join(self.room)
        elif what < 0.25:
            await one.act("leave", self.room)
        else:
            await self.chat(one, dice)

    async def chat(self, one, dice):
        if dice.random() < 0.3:
            key, value = dice.choice("abc"), {"value": dice.random() > 0.5, "by": one.id}
            self.sent.append(await one.set(self.room, THING, value, key))
        else:
            self.sent.append(await one.say(self.room, f"{one} says {dice.random()}"))


async def links(play):
    people, net = play.cast.people, play.cast.net
    seed = random.randrange(1 << 32)
    dice = random.Random(seed)
    crowd = Crowd(play, dice)
    try:
        with play.claim("three people meet on three servers, and six others with them"):
            await asyncio.gather(*(other.start(sync=False) for other in crowd.others))
            await crowd.gather()
        with play.claim(f"all act at once while links are cut and healed (seed {seed})"):
            weather = asyncio.create_task(storm(net, dice))
            try:
                async with asyncio.TaskGroup() as group:
                    for one in people + crowd.others:
                        group.create_task(crowd.act(one))
            finally:
                weather.cancel()
                for link in net.links():
                    net.heal(link)
        with play.claim("with all links whole, everybody is heard by everybody"):
            for one in people:
                last = await one.say(crowd.room, f"{one} is back")
                await asyncio.gather(*(other.sees(crowd.room, last, SETTLE) for other in people))
        async with Liar(play.cast.trust) as witness:
            await judge(play, crowd, witness)
    finally:
        for other in crowd.others:
            await other.stop()


async def storm(net, dice):
    while True:
        await asyncio.sleep(dice.uniform(*WEATHER))
        link = dice.choice(net.links())
        (net.heal if link in net.broken else net.cut)(link)


async def judge(play, crowd, witness):
    """The witness joins when all is over, and asks every server for every event."""
    people, room = play.cast.people, crowd.room
    with play.claim("all three hold the same state"):
        await witness.join(people[0].server.name, room, play.version)
        # An event names only some of many ends of forks, so it takes a few until there is one again.
        for one in people[::-1] * ROUNDS:
            end = await one.say(room, "the end")
            await asyncio.gather(*(other.sees(room, end, SETTLE) for other in people))

        async def check():
            for other in people[1:]:
                equal("state", *[sorted((await one.state(room)).items()) for one in (people[0], other)])

        await eventually(check)
    with play.claim(f"{people[0]}'s server has all events, and so all that anybody was told was sent"):
        events = await eventually(lambda: everything(witness, people[0], room, end))
        lost = [id for id in crowd.sent if id not in events]
        assert not lost, "acknowledged, but not before the end: " + await told_of(witness, people, lost[0])
    await play.each(*(has(play, witness, one, room, events) for one in people[1:]), right(play, room, events, end))


async def told_of(witness, people, id):
    """What each server says of an event, for the complaint."""
    answers = [await witness.ask(one.server.name, "GET", "event", id) for one in people]
    return f"{id}; " + "; ".join(f"{one}'s server says {answer}" for one, answer in zip(people, answers))


async def has(play, witness, one, room, events):
    with play.claim(f"{one}'s server has the same events"):

        async def check():
            await one.history(room)
            answers = [await witness.ask(one.server.name, "GET", "event", id) for id in events]
            missing = [id for id, (status, _) in zip(events, answers) if status != 200]
            assert not missing, f"without {missing}"

        await eventually(check)


async def right(play, room, events, end):
    forks = sum(len(event["prev_events"]) > 1 for event in events.values())
    with play.claim(f"the state is what the rules give over all {len(events)} events and {forks} ends of forks"):
        state = Oracle(play.version, events.values()).state_after(end)
        equal("state", sorted((await play.host.state(room)).items()), sorted(state.items()))


async def everything(witness, one, room, end):
    """Id -> event: `end` and all before it, as the server of `one` has it."""
    server = one.server.name
    events, open = {}, {end}
    # What was missed and is not needed for the state is fetched when somebody looks.
    await one.history(room)
    while open:
        asked = open - events.keys()
        answers = await asyncio.gather(*(witness.ask(server, "GET", "event", id) for id in asked))
        for id, (status, answer) in zip(asked, answers):
            assert status == 200, f"{server} does not have {id}, which others refer to: {answer}"
            events[id] = answer["pdus"][0]
        open = {id for asked_id in asked for id in before(events[asked_id])} - events.keys()
    return events


def before(event):
    return event["prev_events"] + event["auth_events"]
