"""Two people on two servers in one room: everything that happens while both are there."""

from play import refused
from user import eventually

NAME, TOPIC, LEVELS = "m.room.name", "m.room.topic", "m.room.power_levels"


async def chat(play):
    host, guest = play.host, play.guest
    with play.claim(f"{host} invites {guest}, who sees the room's name and accepts"):
        room = await host.create(play.version, preset="private_chat", name="Over there")
        await host.act("invite", room, guest)
        await guest.sees_self(room, "invite")
        assert guest.room(room).preview[NAME, ""]["content"]["name"] == "Over there"
        await guest.join(room)
        await play.see_each_other(room)
    for one, other in play.both_ways():
        await play.each(
            messages(play, room, one, other), edit(play, room, one, other), redact(play, room, one, other)
        )
    await play.each(
        state(play, room), kick(play, room), ban(play, room), leave(play, room), decline(play), disinvite(play)
    )
    with play.claim("in the end both servers hold the same state and the same events in the same order"):
        await play.talk(room)
        await play.agree(room)
        ids = [[event["event_id"] for event in await one.history(room)] for one in (host, guest)]
        assert ids[0] == ids[1], ids


async def messages(play, room, one, other):
    with play.claim(f"{other} sees what {one} says, in order"):
        since = len(other.room(room).timeline)
        said = [await one.say(room, f"{one} says {number}") for number in range(10)]
        await other.sees(room, said[-1])
        heard = [event for event in other.room(room).timeline[since:] if event["sender"] == one.id]
        assert [event["event_id"] for event in heard] == said
        assert heard[0]["content"]["body"] == f"{one} says 0"


async def edit(play, room, one, other):
    with play.claim(f"{other} sees {one}'s message edited"):
        first = await one.say(room, "rihgt")
        new = {"msgtype": "m.text", "body": "right"}
        relation = {"rel_type": "m.replace", "event_id": first}
        edit = await one.say(room, "* right", **{"m.new_content": new, "m.relates_to": relation})
        seen = await other.sees(room, edit)
        assert seen["content"]["m.new_content"] == new, seen
        if "to show with an event what replaced it" not in other.server.lacks:
            original = await other.ask("GET", "rooms", room, "event", first)
            bundled = original["unsigned"]["m.relations"]["m.replace"]
            assert bundled["event_id"] == edit, original


async def redact(play, room, one, other):
    with play.claim(f"{other} sees {one}'s message go away"):
        target = await one.say(room, "to be forgotten")
        await other.sees(room, target)
        redaction = (await one.ask("PUT", "rooms", room, "redact", target, f"{one}-{target}"))["event_id"]
        seen = await other.sees(room, redaction)
        assert target in (seen.get("redacts"), seen["content"].get("redacts")), seen

        async def check():
            assert (await other.ask("GET", "rooms", room, "event", target))["content"] == {}

        await eventually(check)


async def state(play, room):
    host, guest = play.host, play.guest
    with play.claim(f"{guest} must not set the topic"):
        async with refused():
            await guest.set(room, TOPIC, {"topic": "mine"})
    with play.claim(f"{host} gives {guest} the power to, and sees the topic that {guest} sets"):
        levels = await host.ask("GET", "rooms", room, "state", LEVELS, "")
        event = await host.set(room, LEVELS, levels | {"users": levels.get("users", {}) | {guest.id: 50}})
        await guest.sees(room, event)
        event = await guest.set(room, TOPIC, {"topic": "mine"})
        seen = await host.sees(room, event)
        assert seen["content"] == {"topic": "mine"}, seen
        await guest.sees(room, await host.set(room, NAME, {"name": "Still there"}))


async def kick(play, room):
    host, guest = play.host, play.guest
    with play.claim(f"{host} kicks {guest}, who cannot come back uninvited"):
        await host.act("kick", room, guest, reason="manners")
        await guest.sees_self(room, "leave")
        event = guest.room(room).state["m.room.member", guest.id]
        assert event["sender"] == host.id and event["content"]["reason"] == "manners", event
        async with refused():
            await guest.join(room, via=host)
    with play.claim(f"{guest} comes back by invitation"):
        await invite(play, room)


async def ban(play, room):
    host, guest = play.host, play.guest
    with play.claim(f"{host} bans {guest}, who can neither join nor be invited"):
        await host.act("ban", room, guest)
        await guest.until("the ban", lambda: guest.room(room).member(guest.id) == "ban")
        async with refused():
            await guest.join(room, via=host)
        async with refused("M_FORBIDDEN", "M_BAD_STATE"):
            await host.act("invite", room, guest)
    with play.claim(f"{host} lifts the ban, and {guest} comes back by invitation"):
        await host.act("unban", room, guest)
        await host.sees_member(room, guest, "leave")
        await invite(play, room)


async def leave(play, room):
    host, guest = play.host, play.guest
    with play.claim(f"{guest} leaves, which {host} sees, and comes back by invitation"):
        await guest.act("leave", room)
        await host.sees_member(room, guest, "leave")
        missed = await host.say(room, "alone")
        await invite(play, room)
        assert missed not in [event["event_id"] for event in guest.room(room).timeline[:-1]]


async def invite(play, room):
    host, guest = play.host, play.guest
    await host.act("invite", room, guest)
    await guest.sees_self(room, "invite")
    await guest.join(room)
    await play.see_each_other(room)
    await play.talk(room)


async def decline(play):
    host, guest = play.host, play.guest
    with play.claim(f"{guest} declines an invitation, which {host} sees"):
        room = await host.create(play.version, preset="private_chat", invite=[guest.id])
        await guest.sees_self(room, "invite")
        await guest.act("leave", room)
        await host.sees_member(room, guest, "leave")
        await guest.sees_self(room, "leave")


async def disinvite(play):
    host, guest = play.host, play.guest
    with play.claim(f"{host} takes an invitation back, which {guest} sees"):
        room = await host.create(play.version, preset="private_chat", invite=[guest.id])
        await guest.sees_self(room, "invite")
        await host.act("kick", room, guest)
        await guest.sees_self(room, "leave")
        async with refused():
            await guest.join(room, via=host)
