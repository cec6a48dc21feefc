"""EDUs and profiles: typing, receipts, presence, display names, to-device messages."""


async def ephemeral(ctx):
    host, guest = ctx.host, ctx.guest
    with ctx.check(f"{host} and {guest} join a room"):
        room = await ctx.create_shared_room()
    await ctx.run_all(*(part(ctx, room, host, guest) for part in (typing, receipts, presence, profile, to_device)))


async def typing(ctx, room, one, other):
    with ctx.check(f"{other} sees {one} start and stop typing"):
        path = ("rooms", room, "typing", one.id)
        await one.request("PUT", *path, body={"typing": True, "timeout": 30_000})
        await other.wait_until("typing", lambda: other.room(room).typing == [one.id])
        await one.request("PUT", *path, body={"typing": False})
        await other.wait_until("no typing", lambda: other.room(room).typing == [])


async def receipts(ctx, room, one, other):
    with ctx.check(f"{other} receives read receipts of {one}"):
        for text in ("first", "second"):
            target = await other.send_text(room, text)
            await one.wait_for_event(room, target)
            await one.request("POST", "rooms", room, "receipt", "m.read", target)
            await other.wait_until(f"{one}'s receipt", lambda id=target: other.room(room).receipts.get(one.id) == id)


async def presence(ctx, room, one, other):
    with ctx.check(f"{other} sees {one}'s presence and status"):
        for state in ("unavailable", "online"):
            status = f"{state} for now"
            body = {"presence": state, "status_msg": status}
            await one.request("PUT", "presence", one.id, "status", body=body)
            await other.wait_until(
                f"{one}'s presence", lambda text=status: other.presence.get(one.id, {}).get("status_msg") == text
            )


async def profile(ctx, room, one, other):
    with ctx.check(f"{other} sees {one}'s new display name in the room and in the remote profile"):
        name = f"{one} the Great"
        await one.request("PUT", "profile", one.id, "displayname", body={"displayname": name})
        await other.wait_until(
            f"{one}'s name", lambda: other.room(room).content("m.room.member", one.id).get("displayname") == name
        )
        response = await other.request("GET", "profile", one.id)
        assert response["displayname"] == name, response


async def to_device(ctx, room, one, other):
    with ctx.check(f"{other} receives to-device messages of {one} whose numbers are no canonical JSON"):
        type = f"org.example.{room}"
        numbers = [0.5, 1.0, 1e-7, 1e16, 2**53, 10**30]
        for content in ({"x": numbers}, {"x": 1}):
            body = {"messages": {other.id: {"*": content}}}
            await one.request("PUT", "sendToDevice", type, str(content), body=body)
        expected = [{"x": numbers}, {"x": 1}]
        await other.wait_until(
            f"{one}'s numbers",
            lambda: [event["content"] for event in other.to_device if event["type"] == type] == expected,
        )
