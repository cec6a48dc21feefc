"""A server that lies meets one that is under test, the host's; the guest's server is an honest witness.

Nothing that says `LIE` may ever be seen by the host, and whatever lies come in, everybody goes on."""

import json

from bad_events import EVENTS, LIE, MAX, MEMBER, TOPIC
from liar import Den, Liar, now
from signedjson.key import generate_signing_key
from traps import traps
from user import DEADLINE
from welcome import welcomes


class Scene:
    """The liar in a room with a host and a witness; `secret` is a room that mallory is not in."""

    def __init__(self, play, den, secret, secret_event):
        self.play = play
        self.den = den
        self.liar = den.liar
        self.secret = secret
        self.secret_event = secret_event
        self.target = play.host.server.name

    async def go_on(self, lies=()):
        """The lies and then a truth reach the host's server in one transaction, the truth also the witness;
        both hear the truth, and go on talking."""
        host, guest = self.play.host, self.play.guest
        before, since = await host.state(self.den.id), len(host.told)
        truth = self.den.say("the truth")
        await self.deliver("pdus", lies, truth)
        await self.liar.send(guest.server.name, [truth])
        for one in (host, guest):
            await one.sees(self.den.id, self.den.take(truth))
        for event in await self.talk():
            await self.liar.hears(event)
        self.nothing_seen(since)
        assert await host.state(self.den.id) == before, "the state has changed"

    async def deliver(self, kind, lies, truth):
        status, answer = await self.liar.send(self.target, **{kind: [*lies, truth]})
        if status != 200:
            # For one lie everything was refused, so nothing is shown yet of the others.
            for lie in lies:
                await self.liar.send(self.target, **{kind: [lie]})
            status, answer = await self.liar.send(self.target, **{kind: [truth]})
        assert status == 200, (status, answer)

    async def talk(self, within=DEADLINE):
        """The host and the witness hear each other. Returns what they said."""
        said = []
        for one, other in self.play.both_ways():
            said.append(await one.say(self.den.id, f"{one} goes on"))
            await other.sees(self.den.id, said[-1], within)
        return said

    def nothing_seen(self, since):
        for told in self.play.host.told[since:]:
            assert LIE not in told, told[max(told.index(LIE) - 500, 0) :][:1000]


async def lies(play):
    async with Liar(play.cast.trust) as liar:
        with play.claim("mallory joins from a server that lies, and is heard when telling the truth"):
            scene = await meet(play, liar)
            await scene.go_on()
        await play.each(*(tell(scene, what, make) for what, make in EVENTS.items()))
        await play.each(redaction(scene), ephemera(scene), crowds(scene), nonsense(scene))
        await play.each(requests(scene), invitations(scene))
        await play.each(traps(scene), welcomes(scene))
        with play.claim("in the end the witness holds the same state, and no history tells a lie"):
            await play.agree(scene.den.id)
            assert LIE not in json.dumps(await play.host.history(scene.den.id))
        with play.claim("everybody goes on after an event of the greatest depth"):
            scene = await meet(play, liar)
            scene.den.depth = MAX
            for _ in range(3):
                await scene.go_on()
            await play.agree(scene.den.id)


async def meet(play, liar):
    host, guest = play.host, play.guest
    room = await host.create(play.version, preset="public_chat")
    await guest.join(room, via=host)
    await play.see_each_other(room)
    den = await liar.join(host.server.name, room, play.version)
    await host.until("mallory", lambda: host.room(room).member(liar.user) == "join")
    await guest.until("mallory", lambda: guest.room(room).member(liar.user) == "join")
    secret = await play.meet()
    return Scene(play, den, secret, await host.say(secret, "a secret"))


async def tell(scene, what, make):
    with scene.play.claim(f"nothing is seen of {what}"):
        await scene.go_on(make(scene, scene.den))


async def redaction(scene):
    with scene.play.claim("mallory cannot make others' messages go away"):
        host, guest, den = scene.play.host, scene.play.guest, scene.den
        said = await host.say(den.id, "this stays")
        await guest.sees(den.id, said)
        await scene.liar.hears(said)
        # The event itself is not forbidden, so that all servers must know it.
        redaction = den.do("m.room.redaction", {"redacts": said}, redacts=said)
        await scene.liar.send(guest.server.name, [redaction])
        await scene.go_on([redaction])
        event = await host.ask("GET", "rooms", den.id, "event", said)
        assert event["content"]["body"] == "this stays", event


async def ephemera(scene):
    with scene.play.claim("nothing is seen of typing, receipts, presence and messages to devices for others"):
        play, den = scene.play, scene.den
        host, guest, mallory = play.host, play.guest.id, scene.liar.user
        said = await host.say(den.id, "read this")
        await scene.liar.hears(said)

        def typing(room, user):
            return "m.typing", {"room_id": room, "user_id": user, "typing": True}

        def receipt(room, user):
            return "m.receipt", {room: {"m.read": {user: {"data": {"ts": now()}, "event_ids": [said]}}}}

        def presence(user):
            status = {"user_id": user, "presence": "online", "status_msg": LIE, "last_active_ago": 1}
            return "m.presence", {"push": [status]}

        lies = [
            *(typing(den.id, user) for user in (guest, host.id, "ghost", 7, None)),
            typing(scene.secret, mallory),
            *(receipt(den.id, user) for user in (guest, "ghost")),
            receipt(scene.secret, mallory),
            *(presence(user) for user in (guest, host.id, "ghost", 7)),
            ("m.direct_to_device", message_to(host.id, guest)),
            ("m.device_list_update", {"user_id": guest, "device_id": LIE, "stream_id": 1, "prev_id": []}),
            *((type, content) for type in ("m.typing", "m.presence", 7, None) for content in (7, None, [], {})),
        ]
        edus = [{"edu_type": type, "content": content} for type, content in (*lies, typing(den.id, mallory))]
        await scene.deliver("edus", [{}, 7, None, *edus[:-1]], edus[-1])
        room = host.room(den.id)
        await host.until("mallory typing", lambda: mallory in room.typing)
        assert room.typing == [mallory], room.typing
        assert guest not in room.read and mallory not in host.room(scene.secret).read
        await scene.go_on()


def message_to(user, sender):
    messages = {user: {"*": {"note": LIE}}}
    return {"type": "m.room_key_request", "sender": sender, "message_id": "1", "messages": messages}


async def crowds(scene):
    with scene.play.claim("transactions with too much in them are refused as a whole"):
        typing = {"room_id": scene.den.id, "user_id": scene.liar.user, "typing": True}
        for pdus, edus in (
            ([scene.den.say(LIE) for _ in range(51)], []),
            ([], [{"edu_type": "m.typing", "content": typing}] * 101),
        ):
            status, answer = await scene.liar.send(scene.target, pdus, edus)
            assert 400 <= status < 500, (status, answer)
        await scene.go_on()


async def nonsense(scene):
    with scene.play.claim("transactions that make no sense are refused"):
        event = json.dumps(scene.den.say(LIE))
        body = f'{{"origin":"{scene.liar.name}","origin_server_ts":{now()},"pdus":[%s]}}'
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
            status, answer = await scene.liar.send(scene.target, raw=text)
            if "to refuse half a surrogate pair" not in scene.play.host.server.lacks:
                assert 400 <= status < 500, (status, answer, text[:200])
        await scene.go_on()


async def requests(scene):
    """Each is refused, and what it would have done is not done."""
    liar, den, secret = scene.liar, scene.den, scene.secret
    host, guest = scene.play.host, scene.play.guest
    witness = guest.server.name
    other_key = generate_signing_key("2")

    def member(user, membership):
        return den.make(MEMBER, {"membership": membership, "displayname": LIE}, user, sender=user)

    def put(name, event, **more):
        return ("PUT", name, den.id, den.id_of(event)), {"body": event, "version": "v2"} | more

    send = ("PUT", "send", "1")
    lie = {"body": {"origin": liar.name, "origin_server_ts": now(), "pdus": [den.say(LIE)]}}
    asked = {"event_id": scene.secret_event}
    gap = {"earliest_events": [], "latest_events": [scene.secret_event], "limit": 10}
    ghost = f"@ghost:{liar.name}"
    subjects = {
        "requests signed by others than they say they are from": [
            (send, lie | {"origin": witness}),
            (send, lie | {"origin": scene.target}),
            (send, lie | {"origin": "localhost:1"}),
            (send, lie | {"destination": witness}),
            (send, lie | {"key": other_key}),
            (("GET", "state_ids", den.id), {"event_id": next(iter(den.events)), "origin": witness}),
        ],
        "questions about a room that mallory is not in": [
            (("GET", "event", scene.secret_event), {}),
            (("GET", "event_auth", secret, scene.secret_event), {}),
            (("GET", "state", secret), asked),
            (("GET", "state_ids", secret), asked),
            (("GET", "backfill", secret), {"v": scene.secret_event, "limit": 10}),
            (("POST", "get_missing_events", secret), {"body": gap}),
            (("GET", "make_join", secret, liar.user), {"ver": den.version}),
            (("GET", "make_leave", secret, liar.user), {}),
        ],
        "memberships of others": [
            (("GET", "make_join", den.id, guest.id), {"ver": den.version}),
            (("GET", "make_leave", den.id, host.id), {}),
            put("send_join", member(guest.id, "join")),
            put("send_join", member(ghost, "leave")),
            put("send_join", den.make(TOPIC, {"topic": LIE}, "")),
            put("send_join", member(ghost, "join") | {"signatures": {}}),
            put("send_leave", member(host.id, "leave")),
            put("send_leave", member(guest.id, "leave")),
            put("send_leave", member(liar.user, "join")),
            put("send_knock", member(ghost, "knock"), version="v1"),
        ],
    }
    for what, questions in subjects.items():
        with scene.play.claim(f"{what} are refused"):
            for path, more in questions:
                status, answer = await liar.ask(scene.target, *path, **more)
                assert 400 <= status < 500, (path, status, answer)
            await scene.go_on()


async def invitations(scene):
    liar, host = scene.liar, scene.play.host
    den = Den.found(liar, scene.play.version)
    name = {"name": "Mallory's"}

    async def invite(user=host.id, content=None, type=MEMBER, version=den.version, **fields):
        event = den.make(type, content or {"membership": "invite", "displayname": LIE}, user, **fields)
        told = {"type": "m.room.name", "state_key": "", "sender": liar.user, "content": name}
        body = {"event": event, "room_version": version, "invite_room_state": [told]}
        path = ("invite", den.id, den.id_of(event))
        return await liar.ask(scene.target, "PUT", *path, version="v2", body=body)

    with scene.play.claim(f"{host} gets no invitation that is forged"):
        for lie in (
            {"sender": scene.play.guest.id},
            {"sender": host.id},
            {"user": scene.play.guest.id},
            {"user": f"@ghost:{liar.name}"},
            {"content": {"membership": "join"}},
            {"content": {"membership": "ban"}},
            {"type": TOPIC},
            {"version": "unheard of"},
            {"room_id": scene.secret},
        ):
            status, answer = await invite(**lie)
            assert 400 <= status < 500, (lie, status, answer)
        await scene.go_on()
        assert host.room(den.id).membership is None
    with scene.play.claim(f"{host} gets an invitation that is not"):
        status, answer = await invite(content={"membership": "invite"})
        assert status == 200, answer
        await host.sees_self(den.id, "invite")
        assert host.room(den.id).preview["m.room.name", ""]["content"] == name
