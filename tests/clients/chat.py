"""The scenario of two people who chat: everything but the crashes, which are in `crash.py`."""

import asyncio
import dataclasses

from claims import Claims, equal, once
from client import SYNC_LIMIT, Client
from server import Server

MESSAGES = 100
PASSWORD = "correct horse battery staple"


@dataclasses.dataclass
class Stage:
    """Who and what a scenario has to do with."""

    claims: Claims
    server: Server
    alice: Client
    bob: Client
    room: str = ""

    def claim(self, text):
        return self.claims.claim(text)

    def both_ways(self):
        return ((self.alice, self.bob), (self.bob, self.alice))


async def chat(stage):
    for person in (stage.alice, stage.bob):
        await log_in(stage, person)
    for host, guest in ((stage.bob, stage.alice), (stage.alice, stage.bob)):
        await invite(stage, host, guest)
    await converse(stage)
    for one, other in stage.both_ways():
        await type_and_read(stage, one, other)
        await edit_react_redact(stage, one, other)
        await change_profile(stage, one, other)
    for one, other in stage.both_ways():
        await page_back(stage, one)
        await fall_behind(stage, one, other)
    for host, guest in stage.both_ways():
        await leave_and_rejoin(stage, host, guest)


async def log_in(stage, me):
    with stage.claim(f"{me.name} registers, logs in and syncs"):
        localpart = me.name.lower()
        registered = await me.call("register", user=localpart, password=PASSWORD)
        session = await me.call("login", user=localpart, password=PASSWORD)
        me.user = session["user_id"]
        assert registered["user_id"] == me.user == f"@{localpart}:{stage.server.name}", (registered, session)
        await me.call("sync")


async def invite(stage, host, guest):
    """Sets `stage.room` to the new room."""
    name = f"At {host.name}'s"
    with stage.claim(f"{host.name} makes a room and invites {guest.name}"):
        made = await host.call("create_room", name=name, topic="Everything", invite=[])
        stage.room = made["room"]
        await host.sees("membership", room=stage.room, membership="join")
        await host.call("invite", room=stage.room, user=guest.user)
        await host.sees("member", room=stage.room, user=guest.user, membership="invite")
    with stage.claim(f"{guest.name} sees the invitation and the room's name"):
        await guest.sees("membership", room=stage.room, membership="invite", name=name)
    with stage.claim(f"{guest.name} accepts, and each sees the other in the room"):
        await guest.call("join", room=stage.room)
        await guest.sees("membership", room=stage.room, membership="join")
        await host.sees("member", room=stage.room, user=guest.user, membership="join")
        await guest.sees("member", room=stage.room, user=host.user, membership="join")


async def converse(stage):
    marks = {me: me.mark() for me in (stage.alice, stage.bob)}
    sent = {}
    with stage.claim(f"both send {MESSAGES} messages at once, typing and reading all the while"):
        async with asyncio.TaskGroup() as group:
            for me, other in stage.both_ways():
                group.create_task(talk(stage.room, me, sent))
                group.create_task(follow(stage.room, me, other, marks[me]))
    for me in (stage.alice, stage.bob):
        with stage.claim(f"{me.name} has received all {2 * MESSAGES} messages through sync, each once"):
            await me.sees("event", count=2 * MESSAGES, type="m.room.message", room=stage.room, since=marks[me])
            received = messages(me, stage.room, marks[me])
            once("messages", [event["id"] for event in received])
            assert {event["id"]: event["content"]["body"] for event in received} == sent
            own = [event for event in received if event["sender"] == me.user]
            missing = [event["id"] for event in own if event["txn"] != event["content"]["body"]]
            assert not missing, f"without the transaction id that they were sent with: {missing}"
            bodies = [event["content"]["body"] for event in own]
            assert bodies == sorted(bodies), "in another order than they were sent"
    with stage.claim("both have received them in the same order"):
        alice, bob = (messages(me, stage.room, marks[me]) for me in (stage.alice, stage.bob))
        equal("messages", [event["id"] for event in alice], [event["id"] for event in bob])


async def talk(room, me, sent):
    for number in range(MESSAGES):
        if number % 10 == 0:
            await me.call("typing", room=room, on=True)
        body = f"{me.name} says {number:03}"
        sent[await send(me, room, body)] = body
        if number % 10 == 9:
            await me.call("typing", room=room, on=False)


async def follow(room, me, other, mark):
    """Reads what the other says, in tens."""
    for count in range(10, MESSAGES + 1, 10):
        seen = await me.sees(
            "event", count=count, type="m.room.message", room=room, sender=other.user, since=mark
        )
        await me.call("read", room=room, id=seen["id"])


async def send(me, room, body, type="m.room.message", **content):
    """Sends a text under its body as transaction id, and returns its event id."""
    content = {"msgtype": "m.text", "body": body, **content}
    return (await me.call("send", room=room, type=type, content=content, txn=body))["id"]


def messages(me, room, since=0):
    return [event for event in me.timeline(room, since) if event["type"] == "m.room.message"]


async def type_and_read(stage, me, other):
    marks = me.mark(), other.mark()
    with stage.claim(f"{other.name} sees {me.name} begin and stop to type"):
        for on in (True, False):
            await me.call("typing", room=stage.room, on=on)
            await other.sees("typing", room=stage.room, user=me.user, on=on, since=marks[1])
    with stage.claim(f"{other.name} has 3 unread messages of {me.name}, then reads them, then none"):
        for number in range(3):
            last = await send(me, stage.room, f"{me.name} asks {number}")
        await other.sees("event", room=stage.room, id=last)
        await other.sees("unread", room=stage.room, unread=3, since=marks[1])
        await other.call("read", room=stage.room, id=last)
        await other.sees("unread", room=stage.room, unread=0, since=marks[1])
    with stage.claim(f"{me.name} sees that {other.name} has read them"):
        await me.sees("receipt", room=stage.room, user=other.user, id=last, since=marks[0])


async def edit_react_redact(stage, me, other):
    room = stage.room
    with stage.claim(f"{other.name} sees {me.name}'s edit"):
        target = await send(me, room, f"{me.name} writes teh")
        await other.sees("event", room=room, id=target)
        better = {"msgtype": "m.text", "body": f"{me.name} writes the"}
        relation = {"rel_type": "m.replace", "event_id": target}
        body = f"* {better['body']}"
        await send(me, room, body, **{"m.new_content": better, "m.relates_to": relation})
        await other.sees("edited", room=room, id=target, body=better["body"])
        await me.sees("edited", room=room, id=target, body=better["body"])
    with stage.claim(f"{me.name} sees {other.name}'s reaction"):
        annotation = {"rel_type": "m.annotation", "event_id": target, "key": "👍"}
        content = {"m.relates_to": annotation}
        txn = f"{other.name} reacts"
        await other.call("send", room=room, type="m.reaction", content=content, txn=txn)
        await me.sees("reacted", room=room, id=target, key="👍", users=[other.user])
    with stage.claim(f"{other.name} sees that {me.name} has redacted a message, and its text is gone"):
        target = await send(me, room, f"{me.name} regrets")
        await other.sees("event", room=room, id=target)
        await me.call("redact", room=room, target=target, txn=f"{me.name} redacts")
        await other.sees("redacted", room=room, id=target)
        history = await other.call("history", room=room, page=10)
        shown = next(event for event in history if event["id"] == target)
        assert shown["content"] == {}, shown


async def change_profile(stage, me, other):
    name, avatar = f"{me.name} the Great", f"mxc://{stage.server.name}/{me.name}"
    with stage.claim(f"{other.name} sees {me.name}'s new name and avatar"):
        await me.call("profile", name=name, avatar=avatar)
        await other.sees("member", room=stage.room, user=me.user, name=name, avatar=avatar)


async def page_back(stage, me):
    with stage.claim(f"{me.name} pages back to the beginning and finds every event once, in order"):
        await caught_up(stage)
        history = await me.call("history", room=stage.room, page=17)
        ids = [event["id"] for event in reversed(history)]
        once("pages", ids)
        assert history[-1]["type"] == "m.room.create", history[-1]
        live = [event["id"] for event in me.timeline(stage.room)]
        equal("the end of the pages and the synced timeline", ids[-len(live) :], live)
        said = [event for event in history if event["content"].get("body", "").find(" says ") > 0]
        assert len(said) == 2 * MESSAGES, f"{len(said)} messages"


async def fall_behind(stage, me, other):
    with stage.claim(f"{me.name} misses more than a sync tells, is told of a gap, and fills it by paging back"):
        await caught_up(stage)
        mark = me.mark()
        await me.call("pause")
        numbers = iter(range(SYNC_LIMIT + 50))
        said = {}

        async def say():
            for number in numbers:
                body = f"{other.name} goes on: {number}"
                said[await send(other, stage.room, body)] = body

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(say())
        await me.call("resume")
        gap = await me.sees("gap", room=stage.room, since=mark)
        await caught_up(stage)
        seen = me.seen[mark:]
        before = [s["id"] for s in seen[: seen.index(gap)] if is_event(s, stage.room)]
        after = [s["id"] for s in seen[seen.index(gap) :] if is_event(s, stage.room)]
        last = before[-1] if before else me.timeline(stage.room)[-len(after) - 1]["id"]
        hidden = await me.call("fill", room=stage.room, token=gap["token"], until=last)
        whole = before + [event["id"] for event in hidden] + after
        there = [event["id"] for event in other.timeline(stage.room)]
        equal("the filled timeline and the other's", whole, there[-len(whole) :])
        assert said.keys() <= set(whole), "messages are missing"


def is_event(sight, room):
    return sight["saw"] == "event" and sight["room"] == room


async def caught_up(stage):
    """Returns when both clients have seen all that was sent before."""
    for me in (stage.alice, stage.bob):
        mark = await send(me, stage.room, f"{me.name} waits at {me.mark()}")
        for witness in (stage.alice, stage.bob):
            await witness.sees("event", room=stage.room, id=mark)


async def leave_and_rejoin(stage, host, guest):
    room = stage.room
    with stage.claim(f"{guest.name} leaves, and {host.name} sees it"):
        marks = {me: me.mark() for me in (host, guest)}
        await guest.call("leave", room=room)
        await host.sees("member", room=room, user=guest.user, membership="leave", since=marks[host])
        await guest.sees("membership", room=room, membership="leave", since=marks[guest])
    with stage.claim(f"{guest.name} cannot join again without an invitation"):
        try:
            await guest.call("join", room=room)
        except Exception as refusal:
            assert "M_FORBIDDEN" in str(refusal), refusal
        else:
            raise AssertionError("joined")
    with stage.claim(f"{guest.name} is invited again and joins, and both go on talking"):
        missed = await send(host, room, f"{host.name} alone")
        marks = {me: me.mark() for me in (host, guest)}
        await host.call("invite", room=room, user=guest.user)
        await guest.sees("membership", room=room, membership="invite", since=marks[guest])
        await guest.call("join", room=room)
        await guest.sees("membership", room=room, membership="join", since=marks[guest])
        await host.sees("member", room=room, user=guest.user, membership="join", since=marks[host])
        for me, other in stage.both_ways():
            again = await send(me, room, f"{me.name} again, {guest.name} being back")
            await other.sees("event", room=room, id=again, since=marks[other])
    with stage.claim(f"{guest.name} finds in the history what {host.name} said in between"):
        history = await guest.call("history", room=room, page=20)
        assert [event["id"] for event in history].count(missed) == 1, "it is not there once"
