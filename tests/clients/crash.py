"""The scenario of a server that is killed while both clients are sending, several times over."""

import asyncio
import random

from chat import PASSWORD, caught_up, send
from claims import equal, once

KILLS = 4
# Of each client in each round: both together stay below what a sync tells at once.
MESSAGES = 60
AT_ONCE = 6
DELAY = 0.02


async def crashes(stage):
    await caught_up(stage)
    marks = {me: me.mark() for me in (stage.alice, stage.bob)}
    sent = {}
    for number in range(1, KILLS + 1):
        await crash(stage, number, marks, sent)
    await look_again(stage, marks)
    with stage.claim("the server ends cleanly on SIGTERM"):
        status = await asyncio.to_thread(stage.server.stop)
        assert status == 0, f"it ended with {status}"


class Round:
    """What both clients send around one kill: `AT_ONCE` messages each are under way at any time."""

    def __init__(self, stage, number):
        self.stage = stage
        self.number = number
        self.under_way = set()
        self.acknowledged = {}
        self.goal = random.randint(10, 2 * MESSAGES - 40)
        self.reached = asyncio.Event()

    async def all_sent(self):
        async with asyncio.TaskGroup() as group:
            for me in (self.stage.alice, self.stage.bob):
                numbers = iter(range(MESSAGES))
                for worker in range(AT_ONCE):
                    group.create_task(self.work(me, numbers, sticker=worker % 2 == 1))

    async def work(self, me, numbers, sticker):
        """Sends one after the other. matrix-js-sdk itself queues messages, but not stickers."""
        type = "m.sticker" if sticker else "m.room.message"
        content = {"url": "mxc://localhost/sticker", "info": {}} if sticker else {}
        for number in numbers:
            body = f"{me.name} in round {self.number} sends {number:03}"
            self.under_way.add(body)
            self.acknowledged[body] = await send(me, self.stage.room, body, type, **content)
            self.under_way.discard(body)
            if len(self.acknowledged) == self.goal:
                self.reached.set()


async def crash(stage, number, marks, sent):
    """One kill. `sent` collects text and event id of all that was sent since `marks`."""
    this = Round(stage, number)
    with stage.claim(f"kill {number}: it comes while messages are under way"):
        sending = asyncio.create_task(this.all_sent())
        reached = asyncio.create_task(this.reached.wait())
        await asyncio.wait([sending, reached], return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        await asyncio.sleep(random.uniform(0, DELAY))
        stage.server.kill()
        acknowledged, under_way = dict(this.acknowledged), len(this.under_way)
        assert under_way and not sending.done(), "none was; or they failed"
    told = f"{len(acknowledged)} messages were acknowledged; {under_way} under way and the rest go through now"
    with stage.claim(f"kill {number}: the server starts again; {told}"):
        await asyncio.to_thread(stage.server.start)
        await asyncio.gather(*(me.call("network_back") for me in (stage.alice, stage.bob)))
        await sending
        await caught_up(stage)
    for body, event_id in acknowledged.items():
        assert this.acknowledged[body] == event_id
    sent.update(this.acknowledged)
    for me in (stage.alice, stage.bob):
        with stage.claim(f"kill {number}: {me.name} has received every message through sync, each once"):
            timeline = me.timeline(stage.room, marks[me])
            once("events", [event["id"] for event in timeline])
            received = [event for event in timeline if " in round " in event["content"]["body"]]
            once("texts", [event["content"]["body"] for event in received])
            ids = {event["content"]["body"]: event["id"] for event in received}
            lost = [body for body in sent if body not in ids]
            assert not lost, f"acknowledged, but not there: {lost}"
            assert ids == sent, "event ids differ from those of the acknowledgements"
    with stage.claim(f"kill {number}: both have received them in the same order"):
        alice, bob = (me.timeline(stage.room, marks[me]) for me in (stage.alice, stage.bob))
        equal("timelines", [event["id"] for event in alice], [event["id"] for event in bob])


async def look_again(stage, marks):
    timelines = []
    for me in (stage.alice, stage.bob):
        live = [event["id"] for event in me.timeline(stage.room, marks[me])]
        with stage.claim(f"{me.name} logs out, in again, and scrolls back through the same timeline"):
            await me.call("logout")
            await me.call("login", user=me.name.lower(), password=PASSWORD)
            await me.call("sync")
            history = await me.call("scroll", room=stage.room)
            ids = [event["id"] for event in reversed(history)]
            once("events", ids)
            equal("the scrolled and the synced timeline", ids[-len(live) :], live)
            timelines.append([event["id"] for event in reversed(history) if not refers(event)])
    with stage.claim("both see the same room, from its beginning to its end"):
        equal("timelines", *timelines)


def refers(event):
    """Whether it belongs to another event: matrix-js-sdk keeps such out of a timeline that it scrolls
    back, as the other event is not known yet."""
    return event["type"] == "m.room.redaction" or "m.relates_to" in event["content"]
