"""The ways into a room on another server, and from a room to its successor."""

from play import refused
from user import eventually

RULES = "m.room.join_rules"
# Since which room version
KNOCK, RESTRICTED, KNOCK_RESTRICTED = 7, 8, 10
NEXT = {"6": "9", "9": "10", "10": "11", "11": "12", "12": "12"}


async def joins(play):
    version = int(play.version)
    scenes = [alias(play), space(play)]
    if version >= KNOCK:
        scenes += [knock(play), walk_off(play), turn_away(play)]
    if version >= RESTRICTED:
        scenes.append(restricted(play, "restricted"))
    if version >= KNOCK_RESTRICTED:
        scenes.append(restricted(play, "knock_restricted"))
    await play.each(*scenes)


async def alias(play):
    host, guest = play.host, play.guest
    name = f"hall-{play.version}"
    alias = f"#{name}:{host.server.name}"
    with play.claim(f"{guest} finds {host}'s public room by its alias, and in the directory there"):
        room = await host.create(play.version, preset="public_chat", room_alias_name=name, name="Hall")
        await host.ask("PUT", "directory", "list", "room", room, body={"visibility": "public"})
        assert (await guest.ask("GET", "directory", "room", alias))["room_id"] == room

        async def listed():
            listed = await guest.ask("GET", "publicRooms", server=host.server.name)
            entries = [entry for entry in listed["chunk"] if entry["room_id"] == room]
            shown = [(entry["canonical_alias"], entry["name"]) for entry in entries]
            assert shown == [(alias, "Hall")], listed

        # Synapse asks again after half a minute only.
        await eventually(listed, within=60)
    with play.claim(f"{guest} joins it by its alias"):
        assert await guest.join(alias) == room
        await play.see_each_other(room)
        await play.talk(room)
    with play.claim(f"{guest} leaves it and comes back uninvited"):
        await guest.act("leave", room)
        await host.sees_member(room, guest, "leave")
        await guest.sees_self(room, "leave")
        await guest.join(room, via=host)
        await play.see_each_other(room)
        await play.talk(room)
        await play.agree(room)


async def space(play):
    """A space of the guest's with a space of the host's in it, of which the guest's server knows nothing."""
    host, guest = play.host, play.guest

    async def make(who, name, preset, **more):
        return await who.create(play.version, name=name, preset=preset, **more)

    async def put(who, space, room, of, order):
        child = {"via": [of.server.name], "order": order}
        await who.ask("PUT", "rooms", space, "state", "m.space.child", room, body=child)

    async def names(who, space):
        answer = await who.ask("GET", "rooms", space, "hierarchy", version="v1")
        return [room["name"] for room in answer["rooms"]]

    with play.claim(f"{guest} is shown what {host}'s space has for those who may come in"):
        is_space = {"creation_content": {"type": "m.space"}}
        outer = await make(guest, "Outer", "public_chat", **is_space)
        inner = await make(host, "Inner", "public_chat", **is_space)
        hall = await make(host, "Open hall", "public_chat")
        cellar = await make(host, "Closed cellar", "private_chat")
        await put(guest, outer, inner, host, "a")
        await put(host, inner, hall, host, "a")
        await put(host, inner, cellar, host, "b")
        assert await names(guest, outer) == ["Outer", "Inner", "Open hall"]
        assert await names(host, inner) == ["Inner", "Open hall", "Closed cellar"]
        told = await guest.ask("GET", "room_summary", hall, version="v1", via=host.server.name)
        assert told["name"] == "Open hall" and told["membership"] == "leave", told


async def closed(play, rules):
    """A room that nobody is invited to."""
    state = [{"type": RULES, "state_key": "", "content": rules}]
    more = {"preset": "private_chat", "name": "Cellar", "initial_state": state}
    return await play.host.create(play.version, **more)


async def knock(play):
    host, guest = play.host, play.guest
    with play.claim(f"{guest} knocks on {host}'s door with a reason; {host} opens"):
        room = await closed(play, {"join_rule": "knock"})
        async with refused():
            await guest.join(room, via=host)
        await knock_on(play, room)
        await host.act("invite", room, guest)
        await guest.sees_self(room, "invite")
        await guest.join(room)
        await play.see_each_other(room)
        await play.talk(room)


async def walk_off(play):
    host, guest = play.host, play.guest
    with play.claim(f"{guest} knocks and thinks better of it, which {host} sees"):
        room = await closed(play, {"join_rule": "knock"})
        await knock_on(play, room)
        await guest.act("leave", room)
        await guest.sees_self(room, "leave")
        if "to take a knock back" not in guest.server.lacks:
            await host.sees_member(room, guest, "leave")


async def turn_away(play):
    host, guest = play.host, play.guest
    with play.claim(f"{guest} knocks and is turned away"):
        room = await closed(play, {"join_rule": "knock"})
        await knock_on(play, room)
        await host.act("kick", room, guest)
        await host.sees_member(room, guest, "leave")
        if "to hear that a knock was refused" not in host.server.lacks | guest.server.lacks:
            await guest.sees_self(room, "leave")


async def knock_on(play, room):
    host, guest = play.host, play.guest
    await guest.ask("POST", "knock", room, body={"reason": "cold"}, via=host.server.name)
    await guest.sees_self(room, "knock")
    assert guest.room(room).preview["m.room.name", ""]["content"]["name"] == "Cellar"
    await host.sees_member(room, guest, "knock")
    event = host.room(room).state["m.room.member", guest.id]
    assert event["content"]["reason"] == "cold", event


async def restricted(play, rule):
    host, guest = play.host, play.guest
    with play.claim(f"{guest} joins {host}'s {rule} room because of another that both are in"):
        club = await play.meet(name="Club")
        allow = [{"type": "m.room_membership", "room_id": club}]
        room = await closed(play, {"join_rule": rule, "allow": allow})
        await guest.join(room, via=host)
        await play.see_each_other(room)
        event = host.room(room).state["m.room.member", guest.id]
        assert event["content"]["join_authorised_via_users_server"] == host.id, event
        await play.talk(room)
        await play.agree(room)
    with play.claim(f"{guest} stays after leaving the club, but does not get into the {rule} room again"):
        await guest.act("leave", club)
        await host.sees_member(club, guest, "leave")
        await play.talk(room)
        await guest.act("leave", room)
        await host.sees_member(room, guest, "leave")
        async with refused():
            await guest.join(room, via=host)


async def upgrade(play):
    host, guest = play.host, play.guest
    to = NEXT[play.version]
    with play.claim(f"{host} upgrades a room to version {to}, and {guest} sees where it went"):
        name = f"old-{play.version}"
        room = await host.create(play.version, preset="public_chat", room_alias_name=name, name="Moving")
        await guest.join(room, via=host)
        await play.see_each_other(room)
        answer = await host.ask("POST", "rooms", room, "upgrade", body={"new_version": to})
        new = answer["replacement_room"]
        await guest.until("the tombstone", lambda: guest.room(room).content("m.room.tombstone"))
        assert guest.room(room).content("m.room.tombstone")["replacement_room"] == new
    with play.claim(f"{guest} follows to version {to}; name and alias have come along, the old room is closed"):
        await guest.join(new, via=host)
        await guest.sees_self(new, "join")
        await play.talk(new)
        moved = guest.room(new)
        assert moved.content("m.room.create")["predecessor"]["room_id"] == room
        assert moved.content("m.room.create")["room_version"] == to
        assert moved.content("m.room.name") == {"name": "Moving"}
        async with refused():
            await guest.say(room, "anybody left?")

        async def check():
            alias = await guest.ask("GET", "directory", "room", f"#{name}:{host.server.name}")
            assert alias["room_id"] == new, alias

        await eventually(check)
