"""What was said before one came, or while one was away, is fetched from the other server."""

from claims import equal, once
from user import eventually

MESSAGES = 40


async def history(play):
    host, guest = play.host, play.guest
    with play.claim(f"{guest} joins late, pages back to the beginning, and finds all that {host} said, in order"):
        room = await host.create(play.version, preset="public_chat")
        said = [await host.say(room, f"before: {number}") for number in range(MESSAGES)]
        await guest.join(room, via=host)
        await play.see_each_other(room)
        await has_all(guest, room, said)
    with play.claim(f"{guest} comes back after a while and finds what was missed between the rest, in order"):
        await guest.act("leave", room)
        await host.sees_member(room, guest, "leave")
        await guest.sees_self(room, "leave")
        said += [await host.say(room, f"meanwhile: {number}") for number in range(MESSAGES)]
        await guest.join(room, via=host)
        await play.see_each_other(room)
        said.append(await host.say(room, "here again"))
        await guest.sees(room, said[-1])
        await has_all(guest, room, said)
    with play.claim(f"{guest} jumps to the day of the first message and finds it"):
        first = await host.ask("GET", "rooms", room, "event", said[0])
        ts = first["origin_server_ts"]
        answer = await guest.ask("GET", "rooms", room, "timestamp_to_event", version="v1", ts=ts, dir="f")
        assert answer["event_id"] == said[0], answer


async def has_all(me, room, said):
    """The messages of the room's history are those of `said`."""

    async def check():
        events = await me.history(room)
        once("history", [event["event_id"] for event in events])
        assert events[0]["type"] == "m.room.create", events[0]
        equal("messages", said, [event["event_id"] for event in events if event["type"] == "m.room.message"])

    await eventually(check)
