"""Faulty responses of the malicious server to joins: invalid `make_join` and `send_join`, or none."""

import asyncio

from aiohttp import web
from bad_events import EVENTS, LIE, MEMBER, MESSAGE, TOPIC, nested
from faulty_responses import (
    PROMPT,
    Override,
    closed_connection,
    empty_lists,
    error,
    huge_response,
    invalid_json,
    limited_memory,
    no_response,
    slow_response,
    wrong_types,
)
from liar import LiarRoom
from user import RequestFailed


async def faulty_joins(attack):
    await attack.ctx.run_all(
        valid_join(attack),
        *(faulty_make_join(attack, what, change) for what, change in MAKE_JOIN_EVENTS.items()),
        *(faulty_send_join(attack, what, change) for what, change in SEND_JOIN_STATES.items()),
        *(failed_send_join(attack, what, respond) for what, respond in FAILURES.items()),
        *(omitted_auth_chain(attack, *of) for of in ((5, 20), (300, 40))),
        wrong_version(attack),
        invite_with_wrong_version(attack),
        faulty_rejoin(attack),
        rejoin_with_wrong_version(attack),
    )


async def create_room(attack):
    """Creates a room of the liar. A valid event before that ends the backoff for the liar's server."""
    await attack.run()
    return LiarRoom.create(attack.liar, attack.ctx.version)


async def join(attack, room):
    """Returns whether the host could join through the liar."""
    name = attack.liar.name
    try:
        await attack.host.request("POST", "join", room.id, via=name, server_name=name)
    except RequestFailed as failure:
        # Whatever the liar responds is no failure of the host's server.
        assert failure.status != 500 or "joins without internal errors" in attack.host.server.unsupported, failure
        return False
    await attack.host.wait_for_own_membership(room.id, "join")
    return True


async def valid_join(attack):
    host, liar = attack.host, attack.liar
    with attack.check(f"{host} joins a room of the liar, whose responses are valid"):
        room = await create_room(attack)
        assert await join(attack, room)
        message = room.build_and_add(MESSAGE, {"msgtype": "m.text", "body": "welcome"})
        await liar.send(attack.target, [message])
        await host.wait_for_event(room.id, room.event_id(message))
        await liar.wait_for_event(await host.send_text(room.id, "hello"))


async def faulty_make_join(attack, what, change):
    """`make_join` returns another event than a join of the host."""
    host, liar = attack.host, attack.liar
    with attack.check(f"{host}'s server does not sign {what} in a `make_join` response"):
        room = await create_room(attack)
        signed = []

        async def make_join(override, request):
            event = change(attack, room.draft(MEMBER, {"membership": "join"}, host.id, sender=host.id))
            return web.json_response({"room_version": room.version, "event": event})

        async def send_join(override, request):
            signed.append(await request.json())
            return web.json_response({}, status=403)

        with Override(liar, ["make_join"], make_join), Override(liar, ["send_join"], send_join):
            assert not await join(attack, room)
        for event in signed:
            assert (event["type"], event["sender"], event["state_key"]) == (MEMBER, host.id, host.id), event
            assert event["content"]["membership"] == "join", event
            assert event.get("room_id") == room.id, event


async def faulty_send_join(attack, what, change):
    """`send_join` returns a wrong state."""
    host, liar = attack.host, attack.liar
    must_fail = what in INVALID_STATES
    effect = "is not joined" if must_fail else "shows none of them"
    with attack.check(f"a room {what} {effect}"):
        room = await create_room(attack)
        since = len(host.sync_responses)

        async def send_join(override, request):
            response = room.send_join_response(await request.json())
            events = change(attack, room, response["state"])
            return web.json_response(response | {"state": events, "auth_chain": events})

        with Override(liar, ["send_join"], send_join):
            joined = await join(attack, room)
        assert not (joined and must_fail), "the join succeeded"
        attack.check_no_lie_synced(since)
        assert host.room(room.id).membership_of(attack.witness.id) is None
        await attack.exchange_messages()


async def omitted_auth_chain(attack, changes, max_requests):
    """`send_join` returns no auth chain."""
    host, liar = attack.host, attack.liar
    if "joins with an omitted auth chain" in host.server.unsupported:
        return
    with attack.check(f"a room is joined whose auth chain of {changes} events is not in the response, but is given"):
        room = await create_room(attack)
        for number in range(changes):
            room.build_and_add(MEMBER, {"membership": "join", "displayname": str(number)}, liar.user)
        requested = len(liar.request_log)

        async def send_join(override, request):
            return web.json_response(room.send_join_response(await request.json()) | {"auth_chain": []})

        async def event_auth(override, request):
            _, _, event = liar.name_and_arguments(request)
            return web.json_response({"auth_chain": room.auth_chain([event])})

        with Override(liar, ["send_join"], send_join), Override(liar, ["event_auth"], event_auth):
            assert await join(attack, room)
        member = host.room(room.id).state[MEMBER, liar.user]
        assert member["content"]["displayname"] == str(changes - 1), member
        log = liar.request_log[requested:]
        requests = log.count("event") + log.count("event_auth")
        assert requests <= max_requests, log


async def failed_send_join(attack, what, respond):
    host, liar = attack.host, attack.liar
    with attack.check(f"the join fails where the liar responds to `send_join` with {what}; messages are delivered"):
        room = await create_room(attack)
        with Override(liar, ["send_join"], respond) as override, limited_memory(host.server):
            joining = asyncio.create_task(join(attack, room))
            await override.wait_for_request()
            await attack.exchange_messages(PROMPT)
            if respond not in (no_response, slow_response):
                assert not await joining
        # After a timeout, the server may have repeated the request successfully.
        await joining


async def wrong_version(attack):
    """`make_join` names another room version than the create event has."""
    with attack.check("a room with another version than `make_join` named is not joined, until it is named correctly"):
        room = await create_room(attack)

        async def make_join(override, request):
            event = room.draft(MEMBER, {"membership": "join"}, attack.host.id, sender=attack.host.id)
            return web.json_response({"room_version": other_version(room), "event": event})

        async def send_join(override, request):
            response = {"state": [], "auth_chain": []}
            return web.json_response(response if empty else room.send_join_response(await request.json()))

        for empty in (False, True):
            with Override(attack.liar, ["make_join"], make_join), Override(attack.liar, ["send_join"], send_join):
                assert not await join(attack, room), "the join succeeded"
        assert await join(attack, room), "the host is locked out"


async def rejoin_with_wrong_version(attack):
    """`make_join` names another room version than the create event has, which is known."""
    host = attack.host
    with attack.check("nothing is sent to join a room that is known to have another version"):
        room = await create_room(attack)
        assert await join(attack, room)
        await host.request("POST", "rooms", room.id, "leave")
        await host.wait_for_own_membership(room.id, "leave")

        async def make_join(override, request):
            event = room.draft(MEMBER, {"membership": "join"}, host.id, sender=host.id)
            return web.json_response({"room_version": other_version(room), "event": event})

        sent = attack.liar.request_log.count("send_join")
        with Override(attack.liar, ["make_join"], make_join):
            assert not await join(attack, room), "the join succeeded"
        if "comparison of room versions" not in host.server.unsupported:
            assert attack.liar.request_log.count("send_join") == sent, "an event was sent"
        assert await join(attack, room), "the host is locked out"


async def invite_with_wrong_version(attack):
    host, liar = attack.host, attack.liar
    with attack.check(f"an invite with another room version does not keep {host} out"):
        room = await create_room(attack)
        invite = room.build(MEMBER, {"membership": "invite"}, host.id)
        body = {"event": invite, "room_version": other_version(room), "invite_room_state": []}
        path = ("invite", room.id, room.event_id(invite))
        status, response = await liar.request(attack.target, "PUT", *path, version="v2", body=body)
        assert status == 200 or 400 <= status < 500, (status, response)
        assert await join(attack, room), "the host is locked out"


async def faulty_rejoin(attack):
    """A room that the host has left is joined again, with a state that does not allow it."""
    host = attack.host
    with attack.check("a failed join does not change a room that was left: it can be joined again"):
        room = await create_room(attack)
        assert await join(attack, room)
        await host.request("POST", "rooms", room.id, "leave")
        await host.wait_for_own_membership(room.id, "leave")

        async def send_join(override, request):
            response = room.send_join_response(await request.json())
            events = [event for event in response["state"] if event["type"] == "m.room.create"]
            return web.json_response(response | {"state": events, "auth_chain": response["state"]})

        with Override(attack.liar, ["send_join"], send_join):
            assert not await join(attack, room), "the join succeeded"
        assert await join(attack, room), "the host is locked out"


def other_version(room):
    return "10" if room.version != "10" else "9"


MAKE_JOIN_EVENTS = {
    "a message": lambda attack, event: event | {"type": MESSAGE},
    "a topic": lambda attack, event: event | {"type": TOPIC, "state_key": ""},
    "an event of another user": lambda attack, event: event | {"sender": attack.witness.id},
    "a membership of another user": lambda attack, event: event | {"state_key": attack.witness.id},
    "a join of another room": lambda attack, event: event | {"room_id": attack.secret},
    "a ban": lambda attack, event: event | {"content": {"membership": "ban"}},
    "a value that is no object": lambda attack, event: LIE,
}


def replace_create_event(change):
    return lambda attack, room, state: [*change(attack, room, state[0]), *state[1:]]


def append(build):
    return lambda attack, room, state: [*state, *build(attack, room)]


def forged_state(attack, room):
    witness = attack.witness.id
    return [
        room.build(MEMBER, {"membership": "join", "displayname": LIE}, witness, sender=witness),
        room.build(TOPIC, {"topic": LIE}, "", sender=witness),
        room.build(TOPIC, {"topic": "valid"}, "") | {"content": {"topic": LIE}},
    ]


def deep_members(attack, room):
    events = []
    for depth in (99, 120, 200):
        user = f"@deep{depth}:{attack.liar.name}"
        content = {"membership": "join", "displayname": LIE, "nested": nested(depth)}
        events.append(room.build(MEMBER, content, user, sender=user))
    return events


# The join must fail.
INVALID_STATES = {
    "without a create event": replace_create_event(lambda attack, room, create: []),
    "with the create event of another room": replace_create_event(
        lambda attack, room, create: [next(iter(LiarRoom.create(attack.liar, room.version).events.values()))]
    ),
    "with an unsigned create event": replace_create_event(
        lambda attack, room, create: [create | {"signatures": {}}]
    ),
    "with a create event signed by another server": replace_create_event(
        lambda attack, room, create: [room.hash_and_sign(create, name=attack.witness.server.name)]
    ),
    "with unsigned power levels": lambda attack, room, state: [
        event | {"signatures": {}} if "power" in event["type"] else event for event in state
    ],
    "without any state": lambda attack, room, state: [],
}
SEND_JOIN_STATES = INVALID_STATES | {
    "with forged events": append(forged_state),
    "with values that are no events": append(lambda attack, room: [7, None, [], {}, LIE]),
    "with members whose events are nested too deep": append(deep_members),
    "with invalid events": append(
        lambda attack, room: [event for build in EVENTS.values() for event in build(attack, attack.room)]
    ),
}
FAILURES = {
    "an error": error,
    "invalid JSON": invalid_json,
    "values of wrong types": wrong_types,
    "empty lists": empty_lists,
    "a closed connection": closed_connection,
    "no response": no_response,
    "one byte at a time": slow_response,
    "100 MiB": huge_response,
}
