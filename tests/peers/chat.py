"""Two users of two servers in one room: messages, state and memberships."""

from context import expect_error
from user import eventually

NAME, TOPIC, LEVELS = "m.room.name", "m.room.topic", "m.room.power_levels"


async def chat(ctx):
    host, guest = ctx.host, ctx.guest
    with ctx.check(f"{host} invites {guest}, who sees the room's name and joins"):
        room = await host.create_room(ctx.version, preset="private_chat", name="Room")
        await host.change_membership("invite", room, guest)
        await guest.wait_for_own_membership(room, "invite")
        assert guest.room(room).stripped_state[NAME, ""]["content"]["name"] == "Room"
        await guest.join(room)
        await ctx.wait_for_members(room)
    for one, other in ctx.both_directions():
        await ctx.run_all(
            messages(ctx, room, one, other), edit(ctx, room, one, other), redact(ctx, room, one, other)
        )
    await ctx.run_all(
        state(ctx, room),
        kick(ctx, room),
        ban(ctx, room),
        leave(ctx, room),
        reject_invite(ctx),
        withdraw_invite(ctx),
    )
    with ctx.check("in the end both servers have the same state and the same events in the same order"):
        await ctx.exchange_messages(room)
        await ctx.wait_for_same_state(room)
        ids = [[event["event_id"] for event in await one.history(room)] for one in (host, guest)]
        assert ids[0] == ids[1], ids


async def messages(ctx, room, one, other):
    with ctx.check(f"{other} receives messages of {one} in order"):
        since = len(other.room(room).timeline)
        sent = [await one.send_text(room, f"{one} says {number}") for number in range(10)]
        await other.wait_for_event(room, sent[-1])
        received = [event for event in other.room(room).timeline[since:] if event["sender"] == one.id]
        assert [event["event_id"] for event in received] == sent
        assert received[0]["content"]["body"] == f"{one} says 0"


async def edit(ctx, room, one, other):
    with ctx.check(f"{other} receives {one}'s edit"):
        first = await one.send_text(room, "teh")
        new = {"msgtype": "m.text", "body": "the"}
        relation = {"rel_type": "m.replace", "event_id": first}
        edit = await one.send_text(room, "* the", **{"m.new_content": new, "m.relates_to": relation})
        event = await other.wait_for_event(room, edit)
        assert event["content"]["m.new_content"] == new, event
        original = await other.request("GET", "rooms", room, "event", first)
        bundled = original["unsigned"]["m.relations"]["m.replace"]
        assert bundled["event_id"] == edit, original


async def redact(ctx, room, one, other):
    with ctx.check(f"{other} receives {one}'s redaction, and the message is redacted"):
        target = await one.send_text(room, "to be redacted")
        await other.wait_for_event(room, target)
        redaction = (await one.request("PUT", "rooms", room, "redact", target, f"{one}-{target}"))["event_id"]
        event = await other.wait_for_event(room, redaction)
        assert target in (event.get("redacts"), event["content"].get("redacts")), event

        async def check():
            assert (await other.request("GET", "rooms", room, "event", target))["content"] == {}

        await eventually(check)


async def state(ctx, room):
    host, guest = ctx.host, ctx.guest
    with ctx.check(f"{guest} may not set the topic"):
        async with expect_error():
            await guest.set_state(room, TOPIC, {"topic": "Topic"})
    with ctx.check(f"{host} raises {guest}'s power level, and receives the topic that {guest} sets"):
        levels = await host.request("GET", "rooms", room, "state", LEVELS, "")
        event = await host.set_state(room, LEVELS, levels | {"users": levels.get("users", {}) | {guest.id: 50}})
        await guest.wait_for_event(room, event)
        event = await guest.set_state(room, TOPIC, {"topic": "Topic"})
        event = await host.wait_for_event(room, event)
        assert event["content"] == {"topic": "Topic"}, event
        await guest.wait_for_event(room, await host.set_state(room, NAME, {"name": "New name"}))


async def kick(ctx, room):
    host, guest = ctx.host, ctx.guest
    with ctx.check(f"{host} kicks {guest}, who cannot rejoin without an invite"):
        await host.change_membership("kick", room, guest, reason="reason")
        await guest.wait_for_own_membership(room, "leave")
        event = guest.room(room).state["m.room.member", guest.id]
        assert event["sender"] == host.id and event["content"]["reason"] == "reason", event
        async with expect_error():
            await guest.join(room, via=host)
    with ctx.check(f"{guest} rejoins by invite"):
        await invite_and_join(ctx, room)


async def ban(ctx, room):
    host, guest = ctx.host, ctx.guest
    with ctx.check(f"{host} bans {guest}, who can neither join nor be invited"):
        await host.change_membership("ban", room, guest)
        await guest.wait_until("the ban", lambda: guest.room(room).membership_of(guest.id) == "ban")
        async with expect_error():
            await guest.join(room, via=host)
        async with expect_error("M_FORBIDDEN", "M_BAD_STATE"):
            await host.change_membership("invite", room, guest)
    with ctx.check(f"{host} unbans {guest}, who rejoins by invite"):
        await host.change_membership("unban", room, guest)
        await host.wait_for_member(room, guest, "leave")
        await invite_and_join(ctx, room)


async def leave(ctx, room):
    host, guest = ctx.host, ctx.guest
    with ctx.check(f"{guest} leaves, which {host} sees, and rejoins by invite"):
        await guest.change_membership("leave", room)
        await host.wait_for_member(room, guest, "leave")
        missed = await host.send_text(room, "alone")
        await invite_and_join(ctx, room)
        assert missed not in [event["event_id"] for event in guest.room(room).timeline[:-1]]


async def invite_and_join(ctx, room):
    host, guest = ctx.host, ctx.guest
    await host.change_membership("invite", room, guest)
    await guest.wait_for_own_membership(room, "invite")
    await guest.join(room)
    await ctx.wait_for_members(room)
    await ctx.exchange_messages(room)


async def reject_invite(ctx):
    host, guest = ctx.host, ctx.guest
    with ctx.check(f"{guest} rejects an invite, which {host} sees"):
        room = await host.create_room(ctx.version, preset="private_chat", invite=[guest.id])
        await guest.wait_for_own_membership(room, "invite")
        await guest.change_membership("leave", room)
        await host.wait_for_member(room, guest, "leave")
        await guest.wait_for_own_membership(room, "leave")


async def withdraw_invite(ctx):
    host, guest = ctx.host, ctx.guest
    with ctx.check(f"{host} withdraws an invite, which {guest} sees"):
        room = await host.create_room(ctx.version, preset="private_chat", invite=[guest.id])
        await guest.wait_for_own_membership(room, "invite")
        await host.change_membership("kick", room, guest)
        await guest.wait_for_own_membership(room, "leave")
        async with expect_error():
            await guest.join(room, via=host)
