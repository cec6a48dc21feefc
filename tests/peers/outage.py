"""One server is down while people on the other go on."""

import asyncio

from claims import equal, once
from user import eventually

MESSAGES = 200


async def outage(play):
    """It is the guest's server that is down."""
    host, guest = play.host, play.guest
    with play.claim(f"{host} and {guest} meet; {guest} invites {host} as well"):
        room, theirs = await play.meet(), await play.other_way().meet()
        invitation = await guest.create(play.version, preset="private_chat", invite=[host.id])
        await host.sees_self(invitation, "invite")
    with play.claim(f"{guest}'s server stops; {host} leaves a room there and declines an invitation at once"):
        await asyncio.to_thread(guest.server.stop)
        await host.act("leave", theirs)
        await host.sees_self(theirs, "leave")
        await host.act("leave", invitation)
        await host.sees_self(invitation, "leave")
    with play.claim(f"{host} sends {MESSAGES} messages and a new topic meanwhile"):
        said = [await host.say(room, f"into the dark: {number}") for number in range(MESSAGES)]
        await host.set(room, "m.room.topic", {"topic": "Where is everybody?"})
    with play.claim(f"{guest}'s server starts; {guest} says something, sees the topic, and that {host} left"):
        await asyncio.to_thread(guest.server.start)
        await host.sees(room, await guest.say(room, "here again"))
        await guest.until("the topic", lambda: guest.room(room).content("m.room.topic"))
        await guest.sees_member(theirs, host, "leave")
    await play.each(has_all(play, room, said), killed(play, room))


async def has_all(play, room, said):
    with play.claim(f"{play.guest} finds all {len(said)} messages, each once and in order"):

        async def check():
            events = await play.guest.history(room)
            once("history", [event["event_id"] for event in events])
            heard = [event["event_id"] for event in events if event["event_id"] in said]
            equal("messages", said, heard)

        await eventually(check)


async def killed(play, room):
    host, guest = play.host, play.guest
    with play.claim(f"both servers are killed after {host} has spoken into the dark; {guest} hears it all the same"):
        guest.server.kill()
        said = [await host.say(room, f"last words: {number}") for number in range(5)]
        host.server.kill()
        for server in (guest.server, host.server):
            await asyncio.to_thread(server.start)
        await guest.sees(room, said[-1])
    await has_all(play, room, said)
    with play.claim("they go on talking, and both servers hold the same state"):
        await play.talk(room)
        await play.agree(room)
