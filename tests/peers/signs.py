"""Signs of life: what passes between two servers and is in no room's history."""


async def signs(play):
    host, guest = play.host, play.guest
    with play.claim(f"{host} and {guest} meet"):
        room = await play.meet()
    await play.each(*(scene(play, room, host, guest) for scene in (typing, receipts, presence, profile)))


async def typing(play, room, one, other):
    with play.claim(f"{other} sees {one} type and stop typing"):
        path = ("rooms", room, "typing", one.id)
        await one.ask("PUT", *path, body={"typing": True, "timeout": 30_000})
        await other.until("typing", lambda: other.room(room).typing == [one.id])
        await one.ask("PUT", *path, body={"typing": False})
        await other.until("no typing", lambda: other.room(room).typing == [])


async def receipts(play, room, one, other):
    with play.claim(f"{other} sees how far {one} has read"):
        for text in ("first", "second"):
            target = await other.say(room, text)
            await one.sees(room, target)
            await one.ask("POST", "rooms", room, "receipt", "m.read", target)
            await other.until(f"{one}'s receipt", lambda id=target: other.room(room).read.get(one.id) == id)


async def presence(play, room, one, other):
    with play.claim(f"{other} sees {one}'s presence and status"):
        for state in ("unavailable", "online"):
            status = f"{state} for now"
            body = {"presence": state, "status_msg": status}
            await one.ask("PUT", "presence", one.id, "status", body=body)
            await other.until(
                f"{one}'s presence", lambda text=status: other.presence.get(one.id, {}).get("status_msg") == text
            )


async def profile(play, room, one, other):
    with play.claim(f"{other} sees {one}'s new name in the room, and asks for it across servers"):
        name = f"{one} the Great"
        await one.ask("PUT", "profile", one.id, "displayname", body={"displayname": name})
        await other.until(
            f"{one}'s name", lambda: other.room(room).content("m.room.member", one.id).get("displayname") == name
        )
        answer = await other.ask("GET", "profile", one.id)
        assert answer["displayname"] == name, answer
