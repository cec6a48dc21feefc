"""The scenario with two users, except for files (`files.py`) and crashes (`crash.py`)."""

import asyncio
import dataclasses

from checks import Checks, assert_equal_lists, assert_unique
from client import SYNC_LIMIT, Client, is_event
from server import Server

MESSAGES = 100
PASSWORD = "correct horse battery staple"


@dataclasses.dataclass
class ScenarioContext:
    checks: Checks
    server: Server
    alice: Client
    bob: Client
    room: str = ""

    def check(self, text):
        return self.checks.check(text)

    def both_directions(self):
        return ((self.alice, self.bob), (self.bob, self.alice))


async def chat(ctx):
    for client in (ctx.alice, ctx.bob):
        await log_in(ctx, client)
    for host, guest in ((ctx.bob, ctx.alice), (ctx.alice, ctx.bob)):
        await invite(ctx, host, guest)
    await send_concurrently(ctx)
    for one, other in ctx.both_directions():
        await type_and_read(ctx, one, other)
        await edit_react_redact(ctx, one, other)
        await change_profile(ctx, one, other)
    for one, other in ctx.both_directions():
        await page_back(ctx, one)
        await fill_gap(ctx, one, other)
    for host, guest in ctx.both_directions():
        await leave_and_rejoin(ctx, host, guest)


async def log_in(ctx, me):
    with ctx.check(f"{me.name} registers, logs in and syncs"):
        localpart = me.name.lower()
        registered = await me.call("register", user=localpart, password=PASSWORD)
        session = await me.call("login", user=localpart, password=PASSWORD)
        me.user = session["user_id"]
        assert registered["user_id"] == me.user == f"@{localpart}:{ctx.server.name}", (registered, session)
        await me.call("sync")


async def invite(ctx, host, guest):
    """Sets `ctx.room` to the new room."""
    name = f"At {host.name}'s"
    with ctx.check(f"{host.name} creates a room and invites {guest.name}"):
        created = await host.call("create_room", name=name, topic="Everything", invite=[])
        ctx.room = created["room"]
        await host.wait_for("membership", room=ctx.room, membership="join")
        await host.call("invite", room=ctx.room, user=guest.user)
        await host.wait_for("member", room=ctx.room, user=guest.user, membership="invite")
    with ctx.check(f"{guest.name} sees the invite and the room's name"):
        await guest.wait_for("membership", room=ctx.room, membership="invite", name=name)
    with ctx.check(f"{guest.name} joins, and each sees the other in the room"):
        await guest.call("join", room=ctx.room)
        await guest.wait_for("membership", room=ctx.room, membership="join")
        await host.wait_for("member", room=ctx.room, user=guest.user, membership="join")
        await guest.wait_for("member", room=ctx.room, user=host.user, membership="join")


async def send_concurrently(ctx):
    positions = {me: me.position() for me in (ctx.alice, ctx.bob)}
    sent = {}
    with ctx.check(f"both send {MESSAGES} messages concurrently, with typing notifications and receipts"):
        async with asyncio.TaskGroup() as group:
            for me, other in ctx.both_directions():
                group.create_task(send_messages(ctx.room, me, sent))
                group.create_task(send_receipts(ctx.room, me, other, positions[me]))
    for me in (ctx.alice, ctx.bob):
        with ctx.check(f"{me.name} has received all {2 * MESSAGES} messages through sync, each once"):
            await me.wait_for("event", count=2 * MESSAGES, type="m.room.message", room=ctx.room, since=positions[me])
            received = messages(me, ctx.room, positions[me])
            assert_unique("messages", [event["id"] for event in received])
            assert {event["id"]: event["content"]["body"] for event in received} == sent
            own = [event for event in received if event["sender"] == me.user]
            missing = [event["id"] for event in own if event["txn"] != event["content"]["body"]]
            assert not missing, f"without their transaction ids: {missing}"
            bodies = [event["content"]["body"] for event in own]
            assert bodies == sorted(bodies), "not in the order of sending"
    with ctx.check("both have received them in the same order"):
        alice, bob = (messages(me, ctx.room, positions[me]) for me in (ctx.alice, ctx.bob))
        assert_equal_lists("messages", [event["id"] for event in alice], [event["id"] for event in bob])


async def send_messages(room, me, sent):
    for number in range(MESSAGES):
        if number % 10 == 0:
            await me.call("typing", room=room, on=True)
        body = f"{me.name} says {number:03}"
        sent[await send(me, room, body)] = body
        if number % 10 == 9:
            await me.call("typing", room=room, on=False)


async def send_receipts(room, me, other, position):
    """Sends a receipt for every tenth message of the other."""
    for count in range(10, MESSAGES + 1, 10):
        seen = await me.wait_for(
            "event", count=count, type="m.room.message", room=room, sender=other.user, since=position
        )
        await me.call("read", room=room, id=seen["id"])


async def send(me, room, body, type="m.room.message", **content):
    """Sends a text with its body as transaction id; returns its event id."""
    content = {"msgtype": "m.text", "body": body, **content}
    return (await me.call("send", room=room, type=type, content=content, txn=body))["id"]


def messages(me, room, since=0):
    return [event for event in me.timeline(room, since) if event["type"] == "m.room.message"]


async def type_and_read(ctx, me, other):
    positions = me.position(), other.position()
    with ctx.check(f"{other.name} sees {me.name} start and stop typing"):
        for on in (True, False):
            await me.call("typing", room=ctx.room, on=on)
            await other.wait_for("typing", room=ctx.room, user=me.user, on=on, since=positions[1])
    with ctx.check(f"{other.name} has 3 unread messages of {me.name}, and none after a receipt"):
        for number in range(3):
            last = await send(me, ctx.room, f"{me.name} asks {number}")
        await other.wait_for("event", room=ctx.room, id=last)
        await other.wait_for("unread", room=ctx.room, unread=3, since=positions[1])
        await other.call("read", room=ctx.room, id=last)
        await other.wait_for("unread", room=ctx.room, unread=0, since=positions[1])
    with ctx.check(f"{me.name} sees {other.name}'s receipt"):
        await me.wait_for("receipt", room=ctx.room, user=other.user, id=last, since=positions[0])


async def edit_react_redact(ctx, me, other):
    room = ctx.room
    with ctx.check(f"{other.name} sees {me.name}'s edit"):
        target = await send(me, room, f"{me.name} writes teh")
        await other.wait_for("event", room=room, id=target)
        new_content = {"msgtype": "m.text", "body": f"{me.name} writes the"}
        relation = {"rel_type": "m.replace", "event_id": target}
        body = f"* {new_content['body']}"
        await send(me, room, body, **{"m.new_content": new_content, "m.relates_to": relation})
        await other.wait_for("edited", room=room, id=target, body=new_content["body"])
        await me.wait_for("edited", room=room, id=target, body=new_content["body"])
    with ctx.check(f"{me.name} sees {other.name}'s reaction"):
        annotation = {"rel_type": "m.annotation", "event_id": target, "key": "👍"}
        content = {"m.relates_to": annotation}
        txn = f"{other.name} reacts"
        await other.call("send", room=room, type="m.reaction", content=content, txn=txn)
        await me.wait_for("reacted", room=room, id=target, key="👍", users=[other.user])
    with ctx.check(f"{other.name} sees {me.name}'s redaction, and the message is empty"):
        target = await send(me, room, f"{me.name} writes a mistake")
        await other.wait_for("event", room=room, id=target)
        await me.call("redact", room=room, target=target, txn=f"{me.name} redacts")
        await other.wait_for("redacted", room=room, id=target)
        history = await other.call("history", room=room, page=10)
        event = next(event for event in history if event["id"] == target)
        assert event["content"] == {}, event


async def change_profile(ctx, me, other):
    name, avatar = f"{me.name} the Great", f"mxc://{ctx.server.name}/{me.name}"
    with ctx.check(f"{other.name} sees {me.name}'s new display name and avatar"):
        await me.call("profile", name=name, avatar=avatar)
        await other.wait_for("member", room=ctx.room, user=me.user, name=name, avatar=avatar)


async def page_back(ctx, me):
    with ctx.check(f"{me.name} pages back to the beginning and finds every event once, in order"):
        await sync_up(ctx)
        history = await me.call("history", room=ctx.room, page=17)
        ids = [event["id"] for event in reversed(history)]
        assert_unique("pages", ids)
        assert history[-1]["type"] == "m.room.create", history[-1]
        live = [event["id"] for event in me.timeline(ctx.room)]
        assert_equal_lists("the end of the pages and the synced timeline", ids[-len(live) :], live)
        sent = [event for event in history if event["content"].get("body", "").find(" says ") > 0]
        assert len(sent) == 2 * MESSAGES, f"{len(sent)} messages"


async def fill_gap(ctx, me, other):
    with ctx.check(f"{me.name} misses more events than the timeline limit, observes a gap, and fills it by paging back"):
        await sync_up(ctx)
        position = me.position()
        await me.call("pause")
        numbers = iter(range(SYNC_LIMIT + 50))
        sent = {}

        async def send_text():
            for number in numbers:
                body = f"{other.name} sends meanwhile: {number}"
                sent[await send(other, ctx.room, body)] = body

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(send_text())
        await me.call("resume")
        gap = await me.wait_for("gap", room=ctx.room, since=position)
        await sync_up(ctx)
        seen = me.observations[position:]
        before = [s["id"] for s in seen[: seen.index(gap)] if is_event(s, ctx.room)]
        after = [s["id"] for s in seen[seen.index(gap) :] if is_event(s, ctx.room)]
        last = before[-1] if before else me.timeline(ctx.room)[-len(after) - 1]["id"]
        missing = await me.call("fill_gap", room=ctx.room, token=gap["token"], until=last)
        filled = before + [event["id"] for event in missing] + after
        expected = [event["id"] for event in other.timeline(ctx.room)]
        assert_equal_lists("the filled timeline and the other's", filled, expected[-len(filled) :])
        assert sent.keys() <= set(filled), "messages are missing"


async def sync_up(ctx):
    """Waits until both clients have received everything that was sent before."""
    for me in (ctx.alice, ctx.bob):
        last = await send(me, ctx.room, f"{me.name} marks {me.position()}")
        for witness in (ctx.alice, ctx.bob):
            await witness.wait_for("event", room=ctx.room, id=last)


async def leave_and_rejoin(ctx, host, guest):
    room = ctx.room
    with ctx.check(f"{guest.name} leaves, and {host.name} sees it"):
        positions = {me: me.position() for me in (host, guest)}
        await guest.call("leave", room=room)
        await host.wait_for("member", room=room, user=guest.user, membership="leave", since=positions[host])
        await guest.wait_for("membership", room=room, membership="leave", since=positions[guest])
    with ctx.check(f"{guest.name} cannot rejoin without an invite"):
        try:
            await guest.call("join", room=room)
        except Exception as error:
            assert "M_FORBIDDEN" in str(error), error
        else:
            raise AssertionError("the join succeeded")
    with ctx.check(f"{guest.name} is invited again and joins, and messages are delivered"):
        missed = await send(host, room, f"{host.name} during the absence")
        positions = {me: me.position() for me in (host, guest)}
        await host.call("invite", room=room, user=guest.user)
        await guest.wait_for("membership", room=room, membership="invite", since=positions[guest])
        await guest.call("join", room=room)
        await guest.wait_for("membership", room=room, membership="join", since=positions[guest])
        await host.wait_for("member", room=room, user=guest.user, membership="join", since=positions[host])
        for me, other in ctx.both_directions():
            again = await send(me, room, f"{me.name} after {guest.name}'s return")
            await other.wait_for("event", room=room, id=again, since=positions[other])
    with ctx.check(f"{guest.name}'s history has {host.name}'s message from the absence"):
        history = await guest.call("history", room=room, page=20)
        assert [event["id"] for event in history].count(missed) == 1, "not exactly once"
