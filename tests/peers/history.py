"""Backfill of events from before a join, and from an absence."""

from checks import assert_equal_lists, assert_unique
from user import eventually

MESSAGES = 40


async def history(ctx):
    host, guest = ctx.host, ctx.guest
    with ctx.check(f"{guest} joins and pages back through all earlier messages of {host}, in order"):
        room = await host.create_room(ctx.version, preset="public_chat")
        sent = [await host.send_text(room, f"before the join: {number}") for number in range(MESSAGES)]
        await guest.join(room, via=host)
        await ctx.wait_for_members(room)
        await has_all_messages(guest, room, sent)
    with ctx.check(f"{guest} rejoins and pages back through the messages from the absence, in order"):
        await guest.change_membership("leave", room)
        await host.wait_for_member(room, guest, "leave")
        await guest.wait_for_own_membership(room, "leave")
        sent += [await host.send_text(room, f"during the absence: {number}") for number in range(MESSAGES)]
        await guest.join(room, via=host)
        await ctx.wait_for_members(room)
        sent.append(await host.send_text(room, "after the rejoin"))
        await guest.wait_for_event(room, sent[-1])
        await has_all_messages(guest, room, sent)
    with ctx.check(f"{guest} finds the first message by its timestamp"):
        first = await host.request("GET", "rooms", room, "event", sent[0])
        ts = first["origin_server_ts"]
        response = await guest.request("GET", "rooms", room, "timestamp_to_event", version="v1", ts=ts, dir="f")
        assert response["event_id"] == sent[0], response


async def has_all_messages(user, room, sent):
    """Waits until the history of `user` has exactly these messages, in order."""

    async def check():
        events = await user.history(room)
        assert_unique("history", [event["event_id"] for event in events])
        assert events[0]["type"] == "m.room.create", events[0]
        assert_equal_lists("messages", sent, [event["event_id"] for event in events if event["type"] == "m.room.message"])

    await eventually(check)
