"""What a server that lies answers when it is asked, and that it does not answer at all."""

import asyncio
import contextlib
import pathlib

from aiohttp import web
from bad_events import EVENTS, LEVELS, LIE, MESSAGE, NOWHERE, TOPIC, powers, text
from user import DEADLINE

QUESTIONS = ("event", "event_auth", "state", "state_ids", "backfill", "get_missing_events")
MIB = 1 << 20
HUGE = 100 * MIB
# By how much a huge answer may raise the memory of the server that gets it
MEMORY = 64 * MIB
# How long one may wait for what others say while the liar is awaited, in seconds
PROMPT = 10
# How many questions one event may cause
PATIENCE = 100


class Trap:
    """Answers questions with `answer(trap, request)` as long as it is set."""

    def __init__(self, liar, names, answer):
        self.liar = liar
        self.names = names
        self.answer = answer
        self.sprung = asyncio.Event()
        self.over = asyncio.Event()
        self.pending = 0

    def __enter__(self):
        self.liar.traps |= dict.fromkeys(self.names, self)
        return self

    def __exit__(self, *_):
        self.over.set()
        for name in self.names:
            del self.liar.traps[name]

    async def __call__(self, request):
        self.sprung.set()
        self.pending += 1
        try:
            return await self.answer(self, request)
        finally:
            self.pending -= 1

    async def springs(self):
        try:
            async with asyncio.timeout(DEADLINE):
                await self.sprung.wait()
        except TimeoutError:
            raise AssertionError(f"nobody asked the liar for any of {self.names}") from None


async def error(trap, request):
    return web.json_response({"errcode": "M_UNKNOWN", "error": LIE}, status=500)


async def no_json(trap, request):
    return web.Response(text="{" + LIE, content_type="application/json")


async def wrong_types(trap, request):
    keys = ("events", "pdus", "pdu_ids", "auth_chain", "auth_chain_ids")
    return web.json_response(dict(zip(keys, (7, {"a": LIE}, LIE, None, [[[]], 7, None, {}]))))


async def nothing(trap, request):
    return web.json_response(dict.fromkeys(("events", "pdus", "pdu_ids", "auth_chain", "auth_chain_ids"), []))


async def elsewhere(trap, request):
    raise web.HTTPTemporaryRedirect(f"https://{trap.liar.name}/_matrix/federation/v1/elsewhere")


async def hang_up(trap, request):
    request.transport.abort()
    return web.Response()


async def silence(trap, request):
    await trap.over.wait()
    return web.Response(status=503)


async def drip(trap, request):
    response = await begin(request)
    with contextlib.suppress(ConnectionError):
        while not trap.over.is_set():
            await response.write(b" ")
            await asyncio.sleep(0.2)
    return response


async def huge(trap, request):
    response = await begin(request)
    with contextlib.suppress(ConnectionError):
        await response.write(b'"')
        for _ in range(HUGE // MIB):
            await response.write(b"x" * MIB)
    return response


async def begin(request):
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"origin_server_ts":1,"events":[')
    return response


ANSWERS = {
    "errors": error,
    "text that is no JSON": no_json,
    "values of wrong types": wrong_types,
    "nothing": nothing,
    "a way to elsewhere": elsewhere,
    "hanging up": hang_up,
    "a hundred megabytes": huge,
}
SLOW_ANSWERS = {"silence": silence, "one byte after the other": drip}


async def traps(scene):
    answers = dict(ANSWERS)
    if "to go on in a room while it waits for one server" not in scene.play.host.server.lacks:
        answers |= SLOW_ANSWERS
    await scene.play.each(
        *(asked(scene, what, answer) for what, answer in answers.items()),
        false_answers(scene),
        endless(scene),
        made_up(scene),
        deaf(scene),
    )


async def asked(scene, what, answer):
    """Mallory says things that follow from what nobody has."""
    liar, den = scene.liar, scene.den
    with scene.play.claim(f"everybody goes on while the liar, asked for something, answers with {what}"):
        known = den.authority(den.draft(MESSAGE, text()))
        lies = [den.say(LIE, prev_events=[NOWHERE]), den.say(LIE, auth_events=[*known, NOWHERE])]
        with Trap(liar, QUESTIONS, answer) as trap, memory(scene.play.host.server):
            sending = asyncio.create_task(liar.send(scene.target, lies))
            await trap.springs()
            await scene.talk(PROMPT)
            while answer is huge and trap.pending:
                await asyncio.sleep(0.1)
        await sending
        assert "elsewhere" not in liar.asked, "it went elsewhere"
        await scene.go_on()


async def false_answers(scene):
    liar, den = scene.liar, scene.den
    with scene.play.claim("nothing is seen of false events that the liar has when it is asked"):
        lies = [event for make in EVENTS.values() for event in make(scene, den)]
        ids = [den.id_of(event) for event in powers(scene, den)]

        async def answer(trap, request):
            chain = {"auth_chain": lies, "auth_chain_ids": ids}
            return web.json_response({"events": lies, "pdus": lies, "pdu_ids": ids} | chain)

        with Trap(liar, QUESTIONS, answer) as trap:
            sending = asyncio.create_task(liar.send(scene.target, [den.say(LIE, prev_events=[NOWHERE])]))
            await trap.springs()
            await scene.talk(PROMPT)
            await sending
        await scene.go_on()


async def endless(scene):
    liar, den = scene.liar, scene.den
    with scene.play.claim(f"nobody asks more than {PATIENCE} times for an endless past"):
        past = [den.say(LIE, prev_events=[NOWHERE])]
        for _ in range(20 * PATIENCE):
            past.append(den.say(LIE, prev_events=[den.id_of(past[-1])]))
        places = {den.id_of(event): place for place, event in enumerate(past)}

        async def answer(trap, request):
            name, *rest = liar.question(request)
            if name == "event" and rest[0] in places:
                return web.json_response(liar.transaction([past[places[rest[0]]]]))
            if name not in ("get_missing_events", "backfill"):
                return web.json_response({}, status=404)
            latest = (await request.json())["latest_events"] if name[0] == "g" else request.query.getall("v")
            end = min(places.get(id, 0) for id in latest)
            before = past[max(end - 10, 0) : end + (name == "backfill")]
            return web.json_response(liar.transaction(before) | {"events": before})

        start = len(liar.asked)
        with Trap(liar, QUESTIONS, answer) as trap:
            sending = asyncio.create_task(liar.send(scene.target, past[-1:]))
            await trap.springs()
            await scene.talk(PROMPT)
            await sending
            count = 0
            while count < (count := sum(name in QUESTIONS for name in liar.asked[start:])) <= PATIENCE:
                await asyncio.sleep(1)
            assert count <= PATIENCE, f"{count} questions"
        await scene.go_on()


async def made_up(scene):
    """The liar tells of a past in which everybody might set the topic."""
    liar, den = scene.liar, scene.den
    with scene.play.claim("a state that the liar has made up for the past changes nothing"):
        levels = den.make(LEVELS, {"users": {liar.user: 100}, "note": LIE}, "")
        base = den.say("the truth, from nowhere", prev_events=[NOWHERE])
        true = [den.events[id] for key, id in den.state.items() if key != (LEVELS, "")]
        authority = [id for id in den.authority(base) if id != den.state[LEVELS, ""]]
        behind = {"prev_events": [den.id_of(base)]}
        topics = [
            den.make(TOPIC, {"topic": LIE}, "", auth_events=[*authority, *more], **behind)
            for more in ([], [den.id_of(levels)])
        ]
        known = {den.id_of(event): event for event in (*den.events.values(), levels, base, *topics)}
        state = [*true, levels]
        ids = [den.id_of(event) for event in state]

        async def answer(trap, request):
            name, *rest = liar.question(request)
            if name == "event" and rest[0] not in known:
                return web.json_response({}, status=404)
            return web.json_response(
                {
                    "event": lambda: liar.transaction([known[rest[0]]]),
                    "event_auth": lambda: {"auth_chain": state},
                    "state": lambda: {"pdus": state, "auth_chain": state},
                    "state_ids": lambda: {"pdu_ids": ids, "auth_chain_ids": ids},
                    "backfill": lambda: liar.transaction([base]),
                    "get_missing_events": lambda: {"events": [base]},
                }[name]()
            )

        with Trap(liar, QUESTIONS, answer) as trap:
            sending = asyncio.create_task(liar.send(scene.target, topics))
            await trap.springs()
            await scene.talk(PROMPT)
            await sending
            await scene.go_on()


async def deaf(scene):
    with scene.play.claim("everybody goes on while the liar takes no transaction, and hears it all afterwards"):
        host, guest = scene.play.host, scene.play.guest
        with Trap(scene.liar, ["send"], silence) as trap:
            said = [await host.say(scene.den.id, f"not for you: {number}") for number in range(60)]
            await guest.sees(scene.den.id, said[-1], PROMPT)
            await trap.springs()
        for event in said:
            await scene.liar.hears(event)
        await scene.go_on()


@contextlib.contextmanager
def memory(server):
    """Meanwhile the server needs no more memory than `MEMORY` above what it had."""
    process = pathlib.Path(f"/proc/{server.process.pid}")
    (process / "clear_refs").write_text("5")  # the peak is what it has now

    def peak():
        line = next(line for line in (process / "status").read_text().splitlines() if "VmHWM" in line)
        return int(line.split()[1]) * 1024

    before = peak()
    yield
    grown = peak() - before
    if "to refuse a huge answer" not in server.lacks:
        assert grown < MEMORY, f"{grown / MIB:.0f} MiB more than before"
