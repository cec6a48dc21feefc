"""False accounts of a room's state and history: the liar, a member without power, claims states that would
give power back, let users in again or remove members. The guest's server is an honest witness.

The liar's messages are accepted, since their auth events allow them. The room's state must stay as it was, and
the witness must agree."""

import contextlib

from aiohttp import web
from bad_events import LEVELS, LIE, MEMBER, MESSAGE, TOPIC, UNKNOWN_EVENT
from faulty_responses import Override
from liar import Liar, LiarRoom
from user import RequestFailed, User, eventually

CREATE, RULES, VISIBILITY = "m.room.create", "m.room.join_rules", "m.room.history_visibility"


async def false_claims(ctx):
    if "distrust of claimed states" in ctx.host.server.unsupported:
        return
    # Where the room version makes a difference
    claims = list(CLAIMS) if ctx.version == "11" else [name for name in CLAIMS if name in IN_ALL_VERSIONS]
    async with Liar(ctx.environment.certificates) as liar:
        dan = User(ctx.host.server, f"dan-claims-{ctx.version}")
        await dan.start(sync=False)
        try:
            rooms = [
                (send, name)
                for send in (after_made_up_event, before_true_event, after_rejected_event)
                for name in claims
            ]
            await ctx.run_all(
                *(false_claim(ctx, liar, dan, send, name) for send, name in rooms),
                *(false_rejoin(ctx, liar, dan, name) for name in claims),
                old_events(ctx, liar),
                *(false_history(ctx, liar, dan, name) for name in claims),
                false_knock(ctx, liar),
            )
        finally:
            await dan.stop()


class ClaimedRoom:
    """A room of the host with the guest and mallory. It was public once, mallory had power, and dan was in it."""

    def __init__(self, ctx, liar, dan):
        self.ctx = ctx
        self.host = ctx.host
        self.guest = ctx.guest
        self.liar = liar
        self.dan = dan
        self.target = ctx.host.server.name

    async def create(self, join_rule="invite"):
        host, liar = self.host, self.liar
        self.id = await host.create_room(self.ctx.version, preset="public_chat")
        await self.guest.join(self.id, via=host)
        await self.ctx.wait_for_members(self.id)
        self.room = room = await liar.join(host.server.name, self.id, self.ctx.version)
        await self.dan.join(self.id)
        levels = await host.request("GET", "rooms", self.id, "state", LEVELS, "")
        await host.set_state(self.id, LEVELS, levels | {"users": levels["users"] | {liar.user: 99}})
        await host.wait_until("mallory", lambda: host.room(self.id).membership_of(liar.user) == "join")
        self.ghost = f"@ghost:{liar.name}"
        await liar.wait_for_event(await host.send_text(self.id, "mallory has power"))
        await liar.send(self.target, [room.build_and_add(MEMBER, {"membership": "join"}, self.ghost, sender=self.ghost)])
        await eventually(self.ghost_is_in)
        self.old = await self.state()
        await host.set_state(self.id, LEVELS, levels)
        await host.request("POST", "rooms", self.id, "ban", body={"user_id": self.ghost})
        await self.dan.change_membership("leave", self.id)
        await host.set_state(self.id, RULES, {"join_rule": join_rule})
        await host.set_state(self.id, VISIBILITY, {"history_visibility": "joined"})
        self.end = await host.send_text(self.id, "all is in order")
        await liar.wait_for_event(self.end)
        await self.guest.wait_for_event(self.id, self.end)
        self.true = await self.state()
        # By its auth events mallory has the power, by the state not.
        self.room.state = dict(self.old)
        self.rejected = self.add(room.build(TOPIC, {"topic": LIE}, "", prev_events=[self.end]))
        await self.send(self.rejected)
        room.state = dict(self.true)

    async def ghost_is_in(self):
        assert (MEMBER, self.ghost) in await self.state()

    async def state(self):
        return await self.host.state(self.id)

    async def check(self, changed=()):
        """The state is unchanged, and remains so when others go on. `changed` are keys that may change."""
        for _ in range(2):
            state = await self.state()
            wrong = {key for key in self.true.keys() | state.keys() if self.true.get(key) != state.get(key)}
            assert wrong <= set(changed), f"changed: {wrong - set(changed)}"
            await self.ctx.exchange_messages(self.id)

        async def same_state():
            states = [(await user.state(self.id)).items() for user in (self.host, self.guest)]
            differing = {key for key, _ in states[0] ^ states[1]}
            assert differing <= set(changed), f"the witness has another {differing - set(changed)}"

        await eventually(same_state)

    def text(self, *prev_events, **fields):
        """A message of mallory after these events, with true auth events."""
        self.room.state = dict(self.true)
        return self.add(self.room.build_text("a message of mallory", prev_events=list(prev_events), **fields))

    def add(self, event):
        self.room.events[self.room.event_id(event)] = event
        return self.room.event_id(event)

    async def send(self, *ids):
        status, response = await self.liar.send(self.target, [self.room.events[id] for id in ids])
        assert status == 200, response

    async def liar_has_seen(self, user, membership):
        event = self.room.events[self.room.state[MEMBER, user.id]]
        assert event["content"]["membership"] == membership, event

    def claiming(self, claims, history=()):
        """An override of all requests: the claimed state, and this history by `/backfill`."""
        ids = claims(self)

        async def respond(override, request):
            name, *arguments = self.liar.name_and_arguments(request)
            if name == "event" and arguments[0] in self.room.events:
                return web.json_response(self.liar.transaction([self.room.events[arguments[0]]]))
            events = [self.room.events[id] for id in ids]
            chain = [self.room.events[id] for id in self.auth_chain(ids)]
            chain_ids = self.auth_chain(ids)
            responses = {
                "state": {"pdus": events, "auth_chain": chain},
                "state_ids": {"pdu_ids": ids, "auth_chain_ids": chain_ids},
                "event_auth": {"auth_chain": chain},
                "get_missing_events": {"events": []},
                "backfill": self.liar.transaction([self.room.events[id] for id in history]),
            }
            return web.json_response(responses.get(name, {}), status=200 if name in responses else 404)

        return Override(self.liar, ["event", "state", "state_ids", "event_auth", "get_missing_events", "backfill"], respond)

    def auth_chain(self, ids):
        chain, pending = [], list(ids)
        while pending:
            for id in self.room.events[pending.pop()]["auth_events"]:
                if id not in chain:
                    chain.append(id)
                    pending.append(id)
        return chain


# What the liar claims: ids of events


def without(*types):
    return lambda room: [id for (type, _), id in room.true.items() if type not in types]


def old(*types):
    """The old events of these types."""

    def claim(room):
        state = room.true | {key: id for key, id in room.old.items() if key[0] in types}
        return list(state.values())

    return claim


def bare(room):
    return [room.true[CREATE, ""], room.true[MEMBER, room.liar.user]]


def without_others(room):
    others = {(MEMBER, user.id) for user in (room.host, room.guest)} | {(MEMBER, room.ghost)}
    return [id for key, id in room.true.items() if key not in others]


def with_rejected_event(room):
    return [*room.true.values(), room.rejected]


def of_another_room(room):
    other = LiarRoom.create(room.liar, room.ctx.version)
    room.room.events |= other.events
    return list(other.state.values())


def forged(room):
    build = room.room.build
    levels = build(LEVELS, {"users": {room.liar.user: 100}, "note": LIE}, "")
    rules = build(RULES, {"join_rule": "public", "note": LIE}, "")
    member = build(MEMBER, {"membership": "leave", "note": LIE}, room.host.id)
    state = {(event["type"], event["state_key"]): room.add(event) for event in (levels, rules, member)}
    return list((room.true | state).values())


CLAIMS = {
    "nothing but the create event and mallory": bare,
    "no join rules, power levels and visibility": without(RULES, LEVELS, VISIBILITY),
    "no create event": without(CREATE),
    "none of the other members": without_others,
    "the old power levels": old(LEVELS),
    "the old, public join rules": old(RULES),
    "the old memberships": old(MEMBER),
    "the whole old state": old(CREATE, RULES, LEVELS, VISIBILITY, MEMBER),
    "forged power levels, join rules and memberships": forged,
    "an event that was rejected": with_rejected_event,
    "the state of another room": of_another_room,
}
IN_ALL_VERSIONS = ("no create event", "the whole old state", "the state of another room")


# How a claim gets to the host's server


async def after_made_up_event(room, override):
    """after a true event and one that does not exist"""
    made_up = room.text(UNKNOWN_EVENT)
    return [await sent(room, room.text(room.end, made_up))]


async def before_true_event(room, override):
    """behind a gap that is closed then"""
    missing = room.text(room.end)
    lies = [await sent(room, room.text(missing))]
    await room.ctx.exchange_messages(room.id)
    return [*lies, await sent(room, missing)]


async def after_rejected_event(room, override):
    """behind an event that is rejected"""
    made_up = room.text(UNKNOWN_EVENT)
    room.room.state = dict(room.true)
    levels = {"users": {room.liar.user: 100}, "note": LIE}
    rejected = room.add(room.room.build(LEVELS, levels, "", prev_events=[room.end, made_up]))
    await room.send(rejected)
    return [await sent(room, room.text(rejected))]


async def sent(room, id):
    await room.send(id)
    return id


async def false_claim(ctx, liar, dan, send, claims):
    with ctx.check(f"no state changes if mallory claims {claims} {send.__doc__}"):
        room = ClaimedRoom(ctx, liar, dan)
        await room.create()
        with room.claiming(CLAIMS[claims]) as override:
            lies = await send(room, override)
            await override.wait_for_request()
            if CLAIMS[claims] is not of_another_room:
                for lie in lies[:1]:
                    await ctx.host.wait_for_event(room.id, lie)
            await room.check()
        # The old rules and powers are of no use.
        room.room.state = dict(room.true)
        await room.send(
            room.add(room.room.build(TOPIC, {"topic": LIE}, "", prev_events=[room.end])),
            room.add(room.room.build(MEMBER, {"membership": "join"}, room.ghost, sender=room.ghost)),
        )
        await room.check()


async def false_rejoin(ctx, liar, dan, claims):
    """The host was in the room, and joins again through the liar."""
    host = ctx.host
    with ctx.check(f"no state changes if mallory claims {claims} when the host joins again"):
        room = ClaimedRoom(ctx, liar, dan)
        await room.create(join_rule="public")
        await host.change_membership("leave", room.id)
        await ctx.guest.wait_for_member(room.id, host, "leave")
        await eventually(lambda: room.liar_has_seen(host, "leave"))

        joins = []

        async def send_join(override, request):
            joins.append(event := await request.json())
            ids = CLAIMS[claims](room)
            state, chain = ([room.room.events[id] for id in some] for some in (ids, room.auth_chain(ids)))
            return web.json_response(
                {
                    "origin": liar.name,
                    "event": event,
                    "state": state,
                    "auth_chain": chain,
                    "members_omitted": False,
                    "servers_in_room": [liar.name],
                }
            )

        with Override(liar, ["send_join"], send_join):
            for server in (liar.name, ctx.guest.server.name):
                with contextlib.suppress(RequestFailed):
                    await host.request("POST", "join", room.id, via=server, server_name=server)
                    break
        await host.wait_for_own_membership(room.id, "join")
        # The resident server relays the join, whether the host's server has taken its response or not.
        await liar.send(ctx.guest.server.name, joins)
        await room.check(changed=[(MEMBER, host.id)])


async def old_events(ctx, liar):
    """The room's history begins before the host joins. Mallory sends old state events of the room."""
    host, guest = ctx.host, ctx.guest
    with ctx.check("no state changes if mallory sends old state events after the join"):
        id = await guest.create_room(ctx.version, preset="public_chat", topic="old")
        room = await liar.join(guest.server.name, id, ctx.version)
        ghost = f"@ghost:{liar.name}"
        await liar.send(guest.server.name, [room.build_and_add(MEMBER, {"membership": "join"}, ghost, sender=ghost)])

        async def ghost_is_in():
            assert (MEMBER, ghost) in await guest.state(id)

        await eventually(ghost_is_in)
        old = await guest.state(id)
        await guest.set_state(id, TOPIC, {"topic": "new"})
        levels = await guest.request("GET", "rooms", id, "state", LEVELS, "")
        await guest.set_state(id, LEVELS, levels | {"invite": 60})
        await guest.request("POST", "rooms", id, "ban", body={"user_id": ghost})
        await guest.set_state(id, RULES, {"join_rule": "invite"})
        await guest.change_membership("invite", id, host)
        await host.wait_for_own_membership(id, "invite")
        await host.join(id, via=guest)
        await host.wait_for_own_membership(id, "join")
        true = await guest.state(id)
        replaced = [event for key, event in old.items() if true[key] != event]
        assert len(replaced) == 4, replaced
        for event in (*old.values(), *replaced):
            status, response = await liar.send(host.server.name, [room.events[event]])
            assert status == 200, response
        for _ in range(2):
            await ctx.exchange_messages(id)
            assert await host.state(id) == true, "the state has changed"
        await ctx.wait_for_same_state(id)


async def false_history(ctx, liar, dan, claims):
    """The host's server fills a gap by `/backfill`."""
    host = ctx.host
    with ctx.check(f"no state changes if mallory claims {claims} before backfilled events"):
        room = ClaimedRoom(ctx, liar, dan)
        await room.create()
        made_up = room.text(UNKNOWN_EVENT)
        first = room.text(made_up)
        second = room.add(
            room.room.build(
                MEMBER, {"membership": "join", "displayname": "m"}, liar.user, sender=liar.user, prev_events=[first]
            )
        )
        last = room.text(second)
        with room.claiming(lambda room: list(room.true.values())):
            await room.send(last)
            await host.wait_for_event(room.id, last)
            await room.check(changed=[(MEMBER, liar.user)])
        with room.claiming(CLAIMS[claims], history=[first, second]) as override:
            await host.history(room.id)
            await override.wait_for_request()
            await room.check(changed=[(MEMBER, liar.user)])
        assert LIE not in str(await host.history(room.id))


async def false_knock(ctx, liar):
    """The host knocks on a room of the liar."""
    host = ctx.host
    with ctx.check("the state in a response to a knock shows nothing about others than what is specified"):
        room = LiarRoom.create(liar, ctx.version)
        room.build_and_add(RULES, {"join_rule": "knock"}, "")
        name = {"name": "Mallory's"}

        async def make_knock(override, request):
            event = room.draft(MEMBER, {"membership": "knock"}, host.id, sender=host.id)
            return web.json_response({"room_version": room.version, "event": event})

        async def send_knock(override, request):
            stripped = [
                {"type": "m.room.name", "state_key": "", "sender": liar.user, "content": name},
                {"type": TOPIC, "state_key": "", "sender": host.id, "content": {"topic": LIE}},
                {"type": MEMBER, "state_key": host.id, "sender": host.id, "content": {"membership": "join"}},
                {"type": MEMBER, "state_key": ctx.guest.id, "sender": liar.user, "content": {"displayname": LIE}},
            ]
            return web.json_response({"knock_room_state": stripped})

        since = len(host.sync_responses)
        with Override(liar, ["make_knock"], make_knock), Override(liar, ["send_knock"], send_knock):
            await host.request("POST", "knock", room.id, via=liar.name, server_name=liar.name)
            await host.wait_for_own_membership(room.id, "knock")
        stripped = host.room(room.id).stripped_state
        assert stripped["m.room.name", ""]["content"] == name
        assert stripped[MEMBER, host.id]["content"]["membership"] == "knock", stripped
        for response in host.sync_responses[since:]:
            assert LIE not in response, response
