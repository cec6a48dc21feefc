"""A malicious server, the liar, attacks the host's server. The guest's server is an honest witness.

The host must never see anything that contains `LIE`, and all servers must go on working."""

import contextlib
import json

from aiohttp import web
from bad_events import EVENTS, LIE, MAX_INTEGER, MEMBER, TOPIC, nested
from liar import Liar, LiarRoom, now
from signedjson.key import generate_signing_key
from faulty_responses import Override, faulty_responses
from user import DEADLINE, RequestFailed
from faulty_joins import faulty_joins


class Attack:
    """The liar, as mallory, in a room with the host and the witness. It is not in the room `secret`."""

    def __init__(self, ctx, room, secret, secret_event):
        self.ctx = ctx
        self.host = ctx.host
        self.witness = ctx.guest
        self.room = room
        self.liar = room.liar
        self.secret = secret
        self.secret_event = secret_event
        self.target = ctx.host.server.name

    def check(self, text):
        return self.ctx.check(text)

    async def run(self, lies=()):
        """Sends lies and a valid event to the host's server in one transaction, and the valid event to the
        witness. Checks that the valid event and later messages arrive, and no lie does."""
        before, since = await self.host.state(self.room.id), len(self.host.sync_responses)
        valid = self.room.build_text("valid")
        await self.deliver("pdus", lies, valid)
        await self.liar.send(self.witness.server.name, [valid])
        for user in (self.host, self.witness):
            await user.wait_for_event(self.room.id, self.room.add(valid))
        for event in await self.exchange_messages():
            await self.liar.wait_for_event(event)
        self.check_no_lie_synced(since)
        assert await self.host.state(self.room.id) == before, "the state has changed"

    async def deliver(self, kind, lies, valid):
        status, response = await self.liar.send(self.target, **{kind: [*lies, valid]})
        if status != 200:
            # The transaction was rejected because of one lie, so each lie is sent alone.
            for lie in lies:
                await self.liar.send(self.target, **{kind: [lie]})
            status, response = await self.liar.send(self.target, **{kind: [valid]})
        assert status == 200, (status, response)

    async def exchange_messages(self, within=DEADLINE):
        """The host and the witness receive messages of each other. Returns the event ids."""
        sent = []
        for one, other in self.ctx.both_directions():
            sent.append(await one.send_text(self.room.id, f"a message of {one}"))
            await other.wait_for_event(self.room.id, sent[-1], within)
        return sent

    def check_no_lie_synced(self, since):
        for response in self.host.sync_responses[since:]:
            assert LIE not in response, response[max(response.index(LIE) - 500, 0) :][:1000]


async def malicious(ctx):
    async with Liar(ctx.environment.certificates) as liar:
        with ctx.check("mallory joins from the malicious server, and valid events are accepted"):
            attack = await set_up(ctx, liar)
            await attack.run()
        await ctx.run_all(*(invalid_events(attack, what, build) for what, build in EVENTS.items()))
        await ctx.run_all(
            redaction(attack),
            edus(attack),
            oversized_transactions(attack),
            malformed_transactions(attack),
        )
        await ctx.run_all(requests(attack), invites(attack), old_invites(attack), replayed_join(attack))
        await events_from_outside(attack)
        await ctx.run_all(faulty_responses(attack), faulty_joins(attack))
        with ctx.check("in the end the witness has the same state, and the history contains no lie"):
            await ctx.wait_for_same_state(attack.room.id)
            assert LIE not in json.dumps(await ctx.host.history(attack.room.id))
        await deep_events(ctx)
        with ctx.check("messages are delivered after an event of maximal depth"):
            attack = await set_up(ctx, liar)
            attack.room.depth = MAX_INTEGER
            for _ in range(3):
                await attack.run()
            await ctx.wait_for_same_state(attack.room.id)


async def deep_events(ctx):
    """The guest sends events that are nested too deep for hearth. Synapse accepts them."""
    host, guest = ctx.host, ctx.guest
    with ctx.check(f"after events of {guest} that are nested too deep, messages are delivered and the states agree"):
        override = {"state_default": 0, "events_default": 0}
        room = await host.create_room(ctx.version, preset="public_chat", power_level_content_override=override)
        await guest.join(room, via=host)
        await ctx.wait_for_members(room)
        for depth in (99, 120, 124, 200):
            with contextlib.suppress(RequestFailed):
                await guest.send_event(room, "m.room.message", {"nested": nested(depth)})
                await guest.set_state(room, "org.example.deep", {"nested": nested(depth)}, str(depth))
            for one, other in ctx.both_directions():
                await other.wait_for_event(room, await one.send_text(room, f"after {depth} levels"))
        with contextlib.suppress(RequestFailed):
            member = {"membership": "join", "displayname": "deep", "nested": nested(120)}
            await guest.set_state(room, MEMBER, member, guest.id)
        for one, other in ctx.both_directions():
            await other.wait_for_event(room, await one.send_text(room, "after a deep member event"))
        await ctx.wait_for_same_state(room)


async def set_up(ctx, liar):
    host, guest = ctx.host, ctx.guest
    room_id = await host.create_room(ctx.version, preset="public_chat")
    await guest.join(room_id, via=host)
    await ctx.wait_for_members(room_id)
    room = await liar.join(host.server.name, room_id, ctx.version)
    await host.wait_until("mallory", lambda: host.room(room_id).membership_of(liar.user) == "join")
    await guest.wait_until("mallory", lambda: guest.room(room_id).membership_of(liar.user) == "join")
    secret = await ctx.create_shared_room()
    return Attack(ctx, room, secret, await host.send_text(secret, "a secret"))


async def invalid_events(attack, what, build):
    with attack.check(f"the host does not see {what}"):
        await attack.run(build(attack, attack.room))


async def redaction(attack):
    with attack.check("mallory cannot redact messages of others"):
        host, witness, room = attack.host, attack.witness, attack.room
        message = await host.send_text(room.id, "unredacted")
        await witness.wait_for_event(room.id, message)
        await attack.liar.wait_for_event(message)
        # The redaction event is allowed, so that all servers accept it. It has no effect.
        redaction = room.build_and_add("m.room.redaction", {"redacts": message}, redacts=message)
        await attack.liar.send(witness.server.name, [redaction])
        await attack.run([redaction])
        event = await host.request("GET", "rooms", room.id, "event", message)
        assert event["content"]["body"] == "unredacted", event


async def edus(attack):
    with attack.check("EDUs in the name of other users, or nested too deep, have no effect"):
        host, room = attack.host, attack.room
        witness, mallory = attack.witness.id, attack.liar.user
        deep = "refusal of deep EDUs" not in host.server.unsupported
        message = await host.send_text(room.id, "message")
        await attack.liar.wait_for_event(message)
        since = len(host.sync_responses)

        def typing(room_id, user):
            return "m.typing", {"room_id": room_id, "user_id": user, "typing": True}

        def receipt(room_id, user):
            return "m.receipt", {room_id: {"m.read": {user: {"data": {"ts": now()}, "event_ids": [message]}}}}

        def presence(user):
            status = {"user_id": user, "presence": "online", "status_msg": LIE, "last_active_ago": 1}
            return "m.presence", {"push": [status]}

        lies = [
            *(typing(room.id, user) for user in (witness, host.id, "ghost", 7, None)),
            typing(attack.secret, mallory),
            *(receipt(room.id, user) for user in (witness, "ghost")),
            receipt(attack.secret, mallory),
            *(presence(user) for user in (witness, host.id, "ghost", 7)),
            ("m.direct_to_device", message_to(host.id, witness)),
            ("m.device_list_update", {"user_id": witness, "device_id": LIE, "stream_id": 1, "prev_id": []}),
            *(("m.direct_to_device", deep_message_to(host.id, mallory)) for _ in range(deep)),
            *((type, content) for type in ("m.typing", "m.presence", 7, None) for content in (7, None, [], {})),
        ]
        edus = [{"edu_type": type, "content": content} for type, content in (*lies, typing(room.id, mallory))]
        await attack.deliver("edus", [{}, 7, None, *edus[:-1]], edus[-1])
        synced = host.room(room.id)
        await host.wait_until("mallory typing", lambda: mallory in synced.typing)
        assert synced.typing == [mallory], synced.typing
        assert witness not in synced.receipts and mallory not in host.room(attack.secret).receipts
        attack.check_no_lie_synced(since)
        await attack.run()


def message_to(user, sender):
    messages = {user: {"*": {"note": LIE}}}
    return {"type": "m.room_key_request", "sender": sender, "message_id": "1", "messages": messages}


def deep_message_to(user, sender):
    messages = {user: {"*": {"note": LIE, "nested": nested(120)}}}
    return {"type": "m.room_key_request", "sender": sender, "message_id": "2", "messages": messages}


async def oversized_transactions(attack):
    with attack.check("transactions with too many PDUs or EDUs are rejected"):
        typing = {"room_id": attack.room.id, "user_id": attack.liar.user, "typing": True}
        for pdus, edus in (
            ([attack.room.build_text(LIE) for _ in range(51)], []),
            ([], [{"edu_type": "m.typing", "content": typing}] * 101),
        ):
            status, response = await attack.liar.send(attack.target, pdus, edus)
            assert 400 <= status < 500, (status, response)
        await attack.run()


async def malformed_transactions(attack):
    with attack.check("malformed transactions are rejected"):
        event = json.dumps(attack.room.build_text(LIE))
        body = f'{{"origin":"{attack.liar.name}","origin_server_ts":{now()},"pdus":[%s]}}'
        deep = "[" * 100_000 + "]" * 100_000
        for text in (
            "",
            "lies",
            body % event[:-9],
            body % event.replace(LIE, "\x00"),
            body % event.replace(LIE, "\\ud800"),
            body % deep,
            body % event.replace('"msgtype"', f'"deep":{deep},"msgtype"'),
            body % event.replace('"depth": ', '"depth": 1e400'),
            body % "NaN",
            '{"pdus":7}',
            '{"pdus":[],"edus":{}}',
            "[]",
            "7",
        ):
            status, response = await attack.liar.send(attack.target, raw=text)
            if "rejection of unpaired surrogates" not in attack.host.server.unsupported:
                assert 400 <= status < 500, (status, response, text[:200])
        await attack.run()


async def requests(attack):
    """Each is rejected and has no effect."""
    liar, room, secret = attack.liar, attack.room, attack.secret
    host, witness = attack.host, attack.witness
    witness_name = witness.server.name
    other_key = generate_signing_key("2")

    def member(user, membership):
        return room.build(MEMBER, {"membership": membership, "displayname": LIE}, user, sender=user)

    def put(name, event, **options):
        return ("PUT", name, room.id, room.event_id(event)), {"body": event, "version": "v2"} | options

    send = ("PUT", "send", "1")
    lie = {"body": {"origin": liar.name, "origin_server_ts": now(), "pdus": [room.build_text(LIE)]}}
    event_query = {"event_id": attack.secret_event}
    missing_events_body = {"earliest_events": [], "latest_events": [attack.secret_event], "limit": 10}
    ghost = f"@ghost:{liar.name}"
    groups = {
        "requests with wrong origin, destination or signature": [
            (send, lie | {"origin": witness_name}),
            (send, lie | {"origin": attack.target}),
            (send, lie | {"origin": "localhost:1"}),
            (send, lie | {"destination": witness_name}),
            (send, lie | {"key": other_key}),
            (("GET", "state_ids", room.id), {"event_id": next(iter(room.events)), "origin": witness_name}),
        ],
        "requests about a room that mallory is not in": [
            (("GET", "event", attack.secret_event), {}),
            (("GET", "event_auth", secret, attack.secret_event), {}),
            (("GET", "state", secret), event_query),
            (("GET", "state_ids", secret), event_query),
            (("GET", "backfill", secret), {"v": attack.secret_event, "limit": 10}),
            (("POST", "get_missing_events", secret), {"body": missing_events_body}),
            (("GET", "make_join", secret, liar.user), {"ver": room.version}),
            (("GET", "make_leave", secret, liar.user), {}),
        ],
        "membership changes of other users": [
            (("GET", "make_join", room.id, witness.id), {"ver": room.version}),
            (("GET", "make_leave", room.id, host.id), {}),
            put("send_join", member(witness.id, "join")),
            put("send_join", member(ghost, "leave")),
            put("send_join", room.build(TOPIC, {"topic": LIE}, "")),
            put("send_join", member(ghost, "join") | {"signatures": {}}),
            put("send_join", authorized_join(room, ghost, host.id)),
            put("send_leave", member(host.id, "leave")),
            put("send_leave", member(witness.id, "leave")),
            put("send_leave", member(liar.user, "join")),
            put("send_knock", member(ghost, "knock"), version="v1"),
        ],
    }
    for what, group in groups.items():
        with attack.check(f"{what} are rejected"):
            for path, options in group:
                status, response = await liar.request(attack.target, *path, **options)
                assert 400 <= status < 500, (path, status, response)
            await attack.run()


def authorized_join(room, user, authorizer):
    """A join of a public room for which the server of `authorizer` must not sign."""
    content = {"membership": "join", "displayname": LIE, "join_authorised_via_users_server": authorizer}
    return room.build(MEMBER, content, user, sender=user)


async def events_from_outside(attack):
    """mallory sends events with unknown prev_events to a room that mallory is not in."""
    liar, host = attack.liar, attack.host
    with attack.check("events of a server that is not in their room are neither queued nor completed"):
        room = LiarRoom(liar, attack.ctx.version, attack.secret)
        unknown = {"prev_events": ["$" + "a" * 43], "auth_events": ["$" + "b" * 43]}
        events = [room.build_text(LIE, **unknown) for _ in range(50)]
        asked = [name for name in liar.request_log if name in ("event", "get_missing_events", "state_ids")]
        for _ in range(2):
            status, response = await liar.send(attack.target, events)
            assert status == 200, response
        await host.send_text(attack.secret, "members are heard")
        await attack.run()
        now_asked = [name for name in liar.request_log if name in ("event", "get_missing_events", "state_ids")]
        if "refusal of events from outside" not in host.server.unsupported:
            assert now_asked == asked, now_asked[len(asked) :]


async def replayed_join(attack):
    """mallory is banned and sends the old join again."""
    liar, host = attack.liar, attack.host
    with attack.check("a banned user's old join that is sent again is rejected"):
        room_id = await host.create_room(attack.ctx.version, preset="public_chat")
        room = await liar.join(host.server.name, room_id, attack.ctx.version)
        join = room.events[room.state[MEMBER, liar.user]]
        await host.request("POST", "rooms", room_id, "ban", body={"user_id": liar.user})
        path = ("send_join", room_id, room.event_id(join))
        status, response = await liar.request(attack.target, "PUT", *path, version="v2", body=join)
        if "rejection of replayed joins" not in host.server.unsupported:
            assert 400 <= status < 500, (status, response)
        await attack.run()


async def old_invites(attack):
    """In a room of version 1, by version 1 of the endpoint."""
    liar, host = attack.liar, attack.host
    room = LiarRoom.create(liar, "1")
    name = {"name": "An old room"}

    async def invite(event):
        stripped = {"type": "m.room.name", "state_key": "", "sender": liar.user, "content": name}
        body = event | {"unsigned": {"age": 5, "invite_room_state": [stripped]}}
        return await liar.request(attack.target, "PUT", "invite", room.id, room.event_id(event), body=body)

    with attack.check(f"{host} receives an invite to a room of version 1, and joins"):
        event = room.build(MEMBER, {"membership": "invite"}, host.id)
        status, response = await invite(event | {"signatures": {}})
        assert 400 <= status < 500, response
        status, response = await invite(event)
        assert status == 200 and response[0] == 200, response
        signed = response[1]["event"]
        assert signed["signatures"].keys() == {liar.name, host.server.name}, signed
        await host.wait_for_own_membership(room.id, "invite")
        assert host.room(room.id).stripped_state["m.room.name", ""]["content"] == name
        room.add(signed)
        await host.join(room.id)
        await host.wait_for_own_membership(room.id, "join")
        await liar.wait_for_event(await host.send_text(room.id, "hello"))
    with attack.check(f"{host} invites a user whose server knows only version 1 of the endpoint"):
        friend = f"@friend:{liar.name}"
        received = []

        async def respond(override, request):
            if request.path.split("/")[3] != "v1":
                return web.json_response({"errcode": "M_UNRECOGNIZED", "error": "unknown"}, status=404)
            received.append(event := await request.json())
            return web.json_response([200, {"event": liar_signed(room, event)}])

        with Override(liar, ["invite"], respond):
            await host.request("POST", "rooms", room.id, "invite", body={"user_id": friend})
        state = received[0]["unsigned"]["invite_room_state"]
        assert "m.room.create" in [event["type"] for event in state], state
        await liar.wait_for_event(room.event_id(received[0]))


def liar_signed(room, event):
    own = room.sign(event)["signatures"]
    return event | {"signatures": event["signatures"] | own}


async def invites(attack):
    liar, host = attack.liar, attack.host
    room = LiarRoom.create(liar, attack.ctx.version)
    name = {"name": "Mallory's"}

    async def invite(user=host.id, content=None, type=MEMBER, version=room.version, **fields):
        event = room.build(type, content or {"membership": "invite", "displayname": LIE}, user, **fields)
        stripped = [
            {"type": "m.room.name", "state_key": "", "sender": liar.user, "content": name},
            {"type": TOPIC, "state_key": "", "sender": host.id, "content": {"topic": LIE}},
            {"type": MEMBER, "state_key": host.id, "sender": host.id, "content": {"membership": "join"}},
            {"type": MEMBER, "state_key": attack.witness.id, "sender": liar.user, "content": {"displayname": LIE}},
        ]
        body = {"event": event, "room_version": version, "invite_room_state": stripped}
        path = ("invite", room.id, room.event_id(event))
        return await liar.request(attack.target, "PUT", *path, version="v2", body=body)

    with attack.check(f"{host} receives no forged invite"):
        for lie in (
            {"sender": attack.witness.id},
            {"sender": host.id},
            {"user": attack.witness.id},
            {"user": f"@ghost:{liar.name}"},
            {"content": {"membership": "join"}},
            {"content": {"membership": "ban"}},
            {"type": TOPIC},
            {"version": "unknown"},
            {"room_id": attack.secret},
        ):
            status, response = await invite(**lie)
            assert 400 <= status < 500, (lie, status, response)
        await attack.run()
        assert host.room(room.id).membership is None
    with attack.check(f"{host} receives a valid invite"):
        status, response = await invite(content={"membership": "invite"})
        assert status == 200, response
        await host.wait_for_own_membership(room.id, "invite")
        stripped = host.room(room.id).stripped_state
        assert stripped["m.room.name", ""]["content"] == name
        assert stripped[MEMBER, host.id]["content"]["membership"] == "invite", stripped
        if "pruning of stripped state" not in host.server.unsupported:
            assert (TOPIC, "") not in stripped and (MEMBER, attack.witness.id) not in stripped, stripped
