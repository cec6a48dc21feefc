"""Joining remote rooms by alias, knock and restricted rule; spaces; room upgrades."""

from context import expect_error
from user import eventually

RULES = "m.room.join_rules"
# The first room version with these join rules
KNOCK, RESTRICTED, KNOCK_RESTRICTED = 7, 8, 10
UPGRADE_TO = {"1": "3", "2": "6", "3": "5", "5": "6", "6": "9", "9": "10", "10": "11", "11": "12", "12": "12"}


async def joins(ctx):
    version = int(ctx.version)
    parts = [alias(ctx), space(ctx)]
    if version >= KNOCK:
        parts += [knock(ctx), retract_knock(ctx), reject_knock(ctx)]
    if version >= RESTRICTED:
        parts.append(restricted(ctx, "restricted"))
    if version >= KNOCK_RESTRICTED:
        parts.append(restricted(ctx, "knock_restricted"))
    await ctx.run_all(*parts)


async def alias(ctx):
    host, guest = ctx.host, ctx.guest
    name = f"public-{ctx.version}"
    alias = f"#{name}:{host.server.name}"
    with ctx.check(f"{guest} finds {host}'s public room by its alias, and in the remote directory"):
        room = await host.create_room(ctx.version, preset="public_chat", room_alias_name=name, name="Public")
        await host.request("PUT", "directory", "list", "room", room, body={"visibility": "public"})
        assert (await guest.request("GET", "directory", "room", alias))["room_id"] == room

        async def listed():
            listed = await guest.request("GET", "publicRooms", server=host.server.name)
            entries = [entry for entry in listed["chunk"] if entry["room_id"] == room]
            found = [(entry["canonical_alias"], entry["name"]) for entry in entries]
            assert found == [(alias, "Public")], listed

        # Synapse caches the directory for half a minute.
        await eventually(listed, within=60)
    with ctx.check(f"{guest} joins by the alias"):
        assert await guest.join(alias) == room
        await ctx.wait_for_members(room)
        await ctx.exchange_messages(room)
    with ctx.check(f"{guest} leaves and rejoins without an invite"):
        await guest.change_membership("leave", room)
        await host.wait_for_member(room, guest, "leave")
        await guest.wait_for_own_membership(room, "leave")
        await guest.join(room, via=host)
        await ctx.wait_for_members(room)
        await ctx.exchange_messages(room)
        await ctx.wait_for_same_state(room)


async def space(ctx):
    """A space of the guest that contains a space of the host, which the guest's server is not in."""
    host, guest = ctx.host, ctx.guest

    async def create(user, name, preset, **fields):
        version = ctx.version if user.may_create_room(ctx.version) else "3"
        return await user.create_room(version, name=name, preset=preset, **fields)

    async def add_child(user, space, room, via, order):
        child = {"via": [via.server.name], "order": order}
        await user.set_state(space, "m.space.child", child, room)

    async def names(user, space):
        response = await user.request("GET", "rooms", space, "hierarchy", version="v1")
        return [room["name"] for room in response["rooms"]]

    with ctx.check(f"the hierarchy shows {guest} the rooms of {host}'s space that {guest} may join"):
        is_space = {"creation_content": {"type": "m.space"}}
        outer = await create(guest, "Outer", "public_chat", **is_space)
        inner = await create(host, "Inner", "public_chat", **is_space)
        public = await create(host, "Public room", "public_chat")
        private = await create(host, "Private room", "private_chat")
        await add_child(guest, outer, inner, host, "a")
        await add_child(host, inner, public, host, "a")
        await add_child(host, inner, private, host, "b")
        assert await names(guest, outer) == ["Outer", "Inner", "Public room"]
        assert await names(host, inner) == ["Inner", "Public room", "Private room"]
        summary = await guest.request("GET", "room_summary", public, version="v1", via=host.server.name)
        assert summary["name"] == "Public room" and summary["membership"] == "leave", summary


async def create_private_room(ctx, rules):
    state = [{"type": RULES, "state_key": "", "content": rules}]
    fields = {"preset": "private_chat", "name": "Private room", "initial_state": state}
    return await ctx.host.create_room(ctx.version, **fields)


async def knock(ctx):
    host, guest = ctx.host, ctx.guest
    with ctx.check(f"{guest} knocks with a reason, and joins after {host}'s invite"):
        room = await create_private_room(ctx, {"join_rule": "knock"})
        async with expect_error():
            await guest.join(room, via=host)
        await send_knock(ctx, room)
        await host.change_membership("invite", room, guest)
        await guest.wait_for_own_membership(room, "invite")
        await guest.join(room)
        await ctx.wait_for_members(room)
        await ctx.exchange_messages(room)


async def retract_knock(ctx):
    host, guest = ctx.host, ctx.guest
    with ctx.check(f"{guest} knocks and retracts the knock, which {host} sees"):
        room = await create_private_room(ctx, {"join_rule": "knock"})
        await send_knock(ctx, room)
        await guest.change_membership("leave", room)
        await guest.wait_for_own_membership(room, "leave")
        if "retraction of knocks" not in guest.server.unsupported:
            await host.wait_for_member(room, guest, "leave")


async def reject_knock(ctx):
    host, guest = ctx.host, ctx.guest
    with ctx.check(f"{guest} knocks and {host} rejects the knock"):
        room = await create_private_room(ctx, {"join_rule": "knock"})
        await send_knock(ctx, room)
        await host.change_membership("kick", room, guest)
        await host.wait_for_member(room, guest, "leave")
        if "rejection of knocks" not in host.server.unsupported | guest.server.unsupported:
            await guest.wait_for_own_membership(room, "leave")


async def send_knock(ctx, room):
    host, guest = ctx.host, ctx.guest
    await guest.request("POST", "knock", room, body={"reason": "let me in"}, via=host.server.name)
    await guest.wait_for_own_membership(room, "knock")
    assert guest.room(room).stripped_state["m.room.name", ""]["content"]["name"] == "Private room"
    await host.wait_for_member(room, guest, "knock")
    event = host.room(room).state["m.room.member", guest.id]
    assert event["content"]["reason"] == "let me in", event


async def restricted(ctx, rule):
    host, guest = ctx.host, ctx.guest
    with ctx.check(f"{guest} joins {host}'s {rule} room as a member of the allowed room"):
        allowed_room = await ctx.create_shared_room(name="Allowed")
        allow = [{"type": "m.room_membership", "room_id": allowed_room}]
        room = await create_private_room(ctx, {"join_rule": rule, "allow": allow})
        await guest.join(room, via=host)
        await ctx.wait_for_members(room)
        event = host.room(room).state["m.room.member", guest.id]
        assert event["content"]["join_authorised_via_users_server"] == host.id, event
        await ctx.exchange_messages(room)
        await ctx.wait_for_same_state(room)
    with ctx.check(f"{guest} stays in the {rule} room after leaving the allowed room, but cannot rejoin"):
        await guest.change_membership("leave", allowed_room)
        await host.wait_for_member(allowed_room, guest, "leave")
        await ctx.exchange_messages(room)
        await guest.change_membership("leave", room)
        await host.wait_for_member(room, guest, "leave")
        async with expect_error():
            await guest.join(room, via=host)


async def upgrade(ctx):
    host, guest = ctx.host, ctx.guest
    to = UPGRADE_TO[ctx.version]
    with ctx.check(f"{host} upgrades a room to version {to}, and {guest} sees the tombstone"):
        name = f"old-{ctx.version}"
        room = await host.create_room(ctx.version, preset="public_chat", room_alias_name=name, name="Moving")
        await guest.join(room, via=host)
        await ctx.wait_for_members(room)
        response = await host.request("POST", "rooms", room, "upgrade", body={"new_version": to})
        new = response["replacement_room"]
        await guest.wait_until("the tombstone", lambda: guest.room(room).content("m.room.tombstone"))
        assert guest.room(room).content("m.room.tombstone")["replacement_room"] == new
    with ctx.check(f"{guest} joins the room of version {to}; name and alias have moved, the old room is read-only"):
        await guest.join(new, via=host)
        await guest.wait_for_own_membership(new, "join")
        await ctx.exchange_messages(new)
        new_room = guest.room(new)
        assert new_room.content("m.room.create")["predecessor"]["room_id"] == room
        assert new_room.content("m.room.create")["room_version"] == to
        assert new_room.content("m.room.name") == {"name": "Moving"}
        async with expect_error():
            await guest.send_text(room, "too late")

        async def check():
            alias = await guest.request("GET", "directory", "room", f"#{name}:{host.server.name}")
            assert alias["room_id"] == new, alias

        await eventually(check)
