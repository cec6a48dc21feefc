"""Messages to a server that is down, or killed."""

import asyncio

from checks import assert_equal_lists, assert_unique
from user import eventually

MESSAGES = 200


async def outage(ctx):
    """The guest's server is down."""
    host, guest = ctx.host, ctx.guest
    with ctx.check(f"{host} and {guest} join rooms of each other; {guest} invites {host} to one more"):
        room, guests_room = await ctx.create_shared_room(), await ctx.reversed().create_shared_room()
        invite = await guest.create_room(ctx.version, preset="private_chat", invite=[host.id])
        await host.wait_for_own_membership(invite, "invite")
    with ctx.check(f"{guest}'s server stops; {host} leaves {guest}'s room and declines the invite without waiting"):
        await asyncio.to_thread(guest.server.stop)
        await host.change_membership("leave", guests_room)
        await host.wait_for_own_membership(guests_room, "leave")
        await host.change_membership("leave", invite)
        await host.wait_for_own_membership(invite, "leave")
    with ctx.check(f"{host} sends {MESSAGES} messages and sets the topic"):
        sent = [await host.send_text(room, f"during the outage: {number}") for number in range(MESSAGES)]
        await host.set_state(room, "m.room.topic", {"topic": "Outage"})
    with ctx.check(f"{guest}'s server starts; {host} receives a message of {guest}, who sees the topic and that {host} left"):
        await asyncio.to_thread(guest.server.start)
        await host.wait_for_event(room, await guest.send_text(room, "back"))
        await guest.wait_until("the topic", lambda: guest.room(room).content("m.room.topic"), within=90)
        await guest.wait_for_member(guests_room, host, "leave")
    await ctx.run_all(has_all_messages(ctx, room, sent), killed(ctx, room))


async def has_all_messages(ctx, room, sent):
    with ctx.check(f"the history of {ctx.guest} has all {len(sent)} messages once and in order"):

        async def check():
            events = await ctx.guest.history(room)
            assert_unique("history", [event["event_id"] for event in events])
            received = [event["event_id"] for event in events if event["event_id"] in sent]
            assert_equal_lists("messages", sent, received)

        await eventually(check)


async def killed(ctx, room):
    host, guest = ctx.host, ctx.guest
    with ctx.check(f"both servers are killed before messages of {host} are delivered; {guest} receives them after the restart"):
        guest.server.kill()
        sent = [await host.send_text(room, f"before the kill: {number}") for number in range(5)]
        host.server.kill()
        for server in (guest.server, host.server):
            await asyncio.to_thread(server.start)
        await guest.wait_for_event(room, sent[-1])
    await has_all_messages(ctx, room, sent)
    with ctx.check("messages are delivered, and both servers have the same state"):
        await ctx.exchange_messages(room)
        await ctx.wait_for_same_state(room)
