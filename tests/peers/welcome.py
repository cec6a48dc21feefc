"""What a server that lies answers to one that is under test and joins a room there."""

import asyncio

from aiohttp import web
from bad_events import EVENTS, LIE, MEMBER, MESSAGE, TOPIC
from liar import Den
from traps import PROMPT, Trap, drip, error, hang_up, huge, memory, no_json, nothing, silence, wrong_types
from user import Refused


async def welcomes(scene):
    await scene.play.each(
        honest(scene),
        *(proposal(scene, what, change) for what, change in PROPOSALS.items()),
        *(gift(scene, what, change) for what, change in GIFTS.items()),
        *(refusal(scene, what, answer) for what, answer in REFUSALS.items()),
    )


async def found(scene):
    """A new room of the liar's, from whom there has just been something true, so that it is worth asking."""
    await scene.go_on()
    return Den.found(scene.liar, scene.play.version)


async def join(scene, den):
    """Whether the host gets into a room at the liar's."""
    host, liar = scene.play.host, scene.liar
    try:
        await host.ask("POST", "join", den.id, via=liar.name, server_name=liar.name)
    except Refused:
        return False
    await host.sees_self(den.id, "join")
    return True


async def honest(scene):
    host, liar = scene.play.host, scene.liar
    with scene.play.claim(f"{host} joins a room at the liar's, who is honest for once"):
        den = await found(scene)
        assert await join(scene, den)
        said = den.do(MESSAGE, {"msgtype": "m.text", "body": "welcome"})
        await liar.send(scene.target, [said])
        await host.sees(den.id, den.id_of(said))
        await liar.hears(await host.say(den.id, "hello"))


async def proposal(scene, what, change):
    """The event that a server asks to sign is not what was asked for."""
    host, liar = scene.play.host, scene.liar
    with scene.play.claim(f"{host}'s server signs no {what} that the liar proposes as a join"):
        den = await found(scene)
        signed = []

        async def propose(trap, request):
            event = change(scene, den.draft(MEMBER, {"membership": "join"}, host.id, sender=host.id))
            return web.json_response({"room_version": den.version, "event": event})

        async def take(trap, request):
            signed.append(await request.json())
            return web.json_response({}, status=403)

        with Trap(liar, ["make_join"], propose), Trap(liar, ["send_join"], take):
            assert not await join(scene, den)
        for event in signed:
            assert (event["type"], event["sender"], event["state_key"]) == (MEMBER, host.id, host.id), event
            assert event["content"]["membership"] == "join", event
            assert event.get("room_id") == den.id, event


async def gift(scene, what, change):
    """The room that the host is let into is not as it should be."""
    host, liar = scene.play.host, scene.liar
    refuse = what in HOPELESS
    end = "is not entered" if refuse else "shows nothing of it"
    with scene.play.claim(f"a room of the liar's {what} {end}"):
        den = await found(scene)
        since = len(host.told)

        async def welcome(trap, request):
            answer = den.welcome(await request.json())
            events = change(scene, den, answer["state"])
            return web.json_response(answer | {"state": events, "auth_chain": events})

        with Trap(liar, ["send_join"], welcome):
            joined = await join(scene, den)
        assert not (joined and refuse), "it is entered"
        scene.nothing_seen(since)
        assert host.room(den.id).member(scene.play.guest.id) is None
        await scene.talk()


async def refusal(scene, what, answer):
    host, liar = scene.play.host, scene.liar
    with scene.play.claim(f"{host} cannot join where the liar answers with {what}; everybody goes on"):
        den = await found(scene)
        with Trap(liar, ["send_join"], answer) as trap, memory(host.server):
            joining = asyncio.create_task(join(scene, den))
            await trap.springs()
            await scene.talk(PROMPT)
            if answer not in (silence, drip):
                assert not await joining
        # Whoever was kept waiting may have asked again.
        await joining


PROPOSALS = {
    "message": lambda scene, event: event | {"type": MESSAGE},
    "topic": lambda scene, event: event | {"type": TOPIC, "state_key": ""},
    "membership of others": lambda scene, event: event | {"sender": scene.play.guest.id},
    "membership for others": lambda scene, event: event | {"state_key": scene.play.guest.id},
    "join of another room": lambda scene, event: event | {"room_id": scene.secret},
    "ban": lambda scene, event: event | {"content": {"membership": "ban"}},
    "nonsense": lambda scene, event: LIE,
}


def first(change):
    """Changes the event that a room begins with."""
    return lambda scene, den, state: [*change(scene, den, state[0]), *state[1:]]


def last(change):
    """Adds events."""
    return lambda scene, den, state: [*state, *change(scene, den)]


def others_state(scene, den):
    guest = scene.play.guest.id
    return [
        den.make(MEMBER, {"membership": "join", "displayname": LIE}, guest, sender=guest),
        den.make(TOPIC, {"topic": LIE}, "", sender=guest),
        den.make(TOPIC, {"topic": "the truth"}, "") | {"content": {"topic": LIE}},
    ]


HOPELESS = {
    "without a beginning": first(lambda scene, den, create: []),
    "with another room's beginning": first(
        lambda scene, den, create: [next(iter(Den.found(scene.liar, den.version).events.values()))]
    ),
    "with a beginning that nobody has signed": first(
        lambda scene, den, create: [create | {"signatures": {}}]
    ),
    "with a beginning that was signed by others": first(
        lambda scene, den, create: [den.seal(create, name=scene.play.guest.server.name)]
    ),
    "with power levels that nobody has signed": lambda scene, den, state: [
        event | {"signatures": {}} if "power" in event["type"] else event for event in state
    ],
    "with nothing in it": lambda scene, den, state: [],
}
GIFTS = HOPELESS | {
    "with others' events": last(others_state),
    "with nonsense in it": last(lambda scene, den: [7, None, [], {}, LIE]),
    "with false events": last(
        lambda scene, den: [
            event for make in EVENTS.values() for event in make(scene, scene.den)
        ]
    ),
}
REFUSALS = {
    "an error": error,
    "text that is no JSON": no_json,
    "values of wrong types": wrong_types,
    "nothing": nothing,
    "hanging up": hang_up,
    "silence": silence,
    "one byte after the other": drip,
    "a hundred megabytes": huge,
}
