"""Part of the scenario: SIGKILL while both clients are sending, several times."""

import asyncio
import random

from chat import PASSWORD, sync_up, send
from checks import assert_equal_lists, assert_unique

KILLS = 4
# Per client and round. Those of both clients are fewer than the timeline limit of a sync.
MESSAGES = 60
CONCURRENCY = 6
MAX_DELAY = 0.02


async def crashes(ctx):
    await sync_up(ctx)
    positions = {me: me.position() for me in (ctx.alice, ctx.bob)}
    sent = {}
    for number in range(1, KILLS + 1):
        await crash(ctx, number, positions, sent)
    await compare_after_login(ctx, positions)
    with ctx.check("the server exits with status 0 on SIGTERM"):
        status = await asyncio.to_thread(ctx.server.stop)
        assert status == 0, f"status {status}"


class Round:
    """The messages of both clients around one kill. Each client has `CONCURRENCY` requests in flight."""

    def __init__(self, ctx, number):
        self.ctx = ctx
        self.number = number
        self.in_flight = set()
        self.acknowledged = {}
        self.goal = random.randint(10, 2 * MESSAGES - 40)
        self.reached = asyncio.Event()

    async def all_sent(self):
        async with asyncio.TaskGroup() as group:
            for me in (self.ctx.alice, self.ctx.bob):
                numbers = iter(range(MESSAGES))
                for worker in range(CONCURRENCY):
                    group.create_task(self.work(me, numbers, sticker=worker % 2 == 1))

    async def work(self, me, numbers, sticker):
        """Sends sequentially. matrix-js-sdk queues messages, but not stickers."""
        type = "m.sticker" if sticker else "m.room.message"
        content = {"url": "mxc://localhost/sticker", "info": {}} if sticker else {}
        for number in numbers:
            body = f"{me.name} in round {self.number} sends {number:03}"
            self.in_flight.add(body)
            self.acknowledged[body] = await send(me, self.ctx.room, body, type, **content)
            self.in_flight.discard(body)
            if len(self.acknowledged) == self.goal:
                self.reached.set()


async def crash(ctx, number, positions, sent):
    """Kills the server once. `sent` maps the texts since `positions` to event ids."""
    round = Round(ctx, number)
    with ctx.check(f"kill {number}: requests are in flight"):
        sending = asyncio.create_task(round.all_sent())
        reached = asyncio.create_task(round.reached.wait())
        await asyncio.wait([sending, reached], return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        await asyncio.sleep(random.uniform(0, MAX_DELAY))
        ctx.server.kill()
        acknowledged, in_flight = dict(round.acknowledged), len(round.in_flight)
        assert in_flight and not sending.done(), "no request was in flight, or one failed"
    counts = f"{len(acknowledged)} messages were acknowledged, {in_flight} in flight"
    with ctx.check(f"kill {number}: after a restart all messages are sent ({counts})"):
        await asyncio.to_thread(ctx.server.start)
        await asyncio.gather(*(me.call("retry_now") for me in (ctx.alice, ctx.bob)))
        await sending
        await sync_up(ctx)
    for body, event_id in acknowledged.items():
        assert round.acknowledged[body] == event_id
    sent.update(round.acknowledged)
    for me in (ctx.alice, ctx.bob):
        with ctx.check(f"kill {number}: {me.name} has received every message through sync, each once"):
            timeline = me.timeline(ctx.room, positions[me])
            assert_unique("events", [event["id"] for event in timeline])
            received = [event for event in timeline if " in round " in event["content"]["body"]]
            assert_unique("texts", [event["content"]["body"] for event in received])
            ids = {event["content"]["body"]: event["id"] for event in received}
            lost = [body for body in sent if body not in ids]
            assert not lost, f"acknowledged, but missing: {lost}"
            assert ids == sent, "event ids differ from those in the responses"
    with ctx.check(f"kill {number}: both have received them in the same order"):
        alice, bob = (me.timeline(ctx.room, positions[me]) for me in (ctx.alice, ctx.bob))
        assert_equal_lists("timelines", [event["id"] for event in alice], [event["id"] for event in bob])


async def compare_after_login(ctx, positions):
    timelines = []
    for me in (ctx.alice, ctx.bob):
        live = [event["id"] for event in me.timeline(ctx.room, positions[me])]
        with ctx.check(f"{me.name} logs out and in, and scrolls back through the same timeline"):
            await me.call("logout")
            await me.call("login", user=me.name.lower(), password=PASSWORD)
            await me.call("sync")
            history = await me.call("scroll", room=ctx.room)
            ids = [event["id"] for event in reversed(history)]
            assert_unique("events", ids)
            assert_equal_lists("the scrolled and the synced timeline", ids[-len(live) :], live)
            timelines.append([event["id"] for event in reversed(history) if not refers_to_event(event)])
    with ctx.check("both have the same timeline from the start of the room"):
        assert_equal_lists("timelines", *timelines)


def refers_to_event(event):
    """Whether the event refers to another one. When scrolling back, matrix-js-sdk omits such events from the
    timeline, as it does not know the other event yet."""
    return event["type"] == "m.room.redaction" or "m.relates_to" in event["content"]
