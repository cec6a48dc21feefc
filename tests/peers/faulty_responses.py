"""Faulty responses of the malicious server to requests for events: invalid, false, huge, slow or none."""

import asyncio
import contextlib
import pathlib

from aiohttp import web
from bad_events import EVENTS, LEVELS, LIE, MESSAGE, TOPIC, UNKNOWN_EVENT, power_levels, text
from user import DEADLINE

EVENT_REQUESTS = ("event", "event_auth", "state", "state_ids", "backfill", "get_missing_events")
RESPONSE_FIELDS = ("events", "pdus", "pdu_ids", "auth_chain", "auth_chain_ids")
MIB = 1 << 20
HUGE = 100 * MIB
# How much memory a server may need for a huge response
MAX_MEMORY_GROWTH = 64 * MIB
# How long a message of others may take while the server waits for the liar, in seconds
PROMPT = 10
# How many requests for missing events one event may cause
MAX_REQUESTS = 100


class Override:
    """While it is entered, `respond(override, request)` responds to requests of these names."""

    def __init__(self, liar, names, respond):
        self.liar = liar
        self.names = names
        self.respond = respond
        self.requested = asyncio.Event()
        self.ended = asyncio.Event()
        self.pending = 0

    def __enter__(self):
        self.liar.overrides |= dict.fromkeys(self.names, self)
        return self

    def __exit__(self, *_):
        self.ended.set()
        for name in self.names:
            del self.liar.overrides[name]

    async def __call__(self, request):
        self.requested.set()
        self.pending += 1
        try:
            return await self.respond(self, request)
        finally:
            self.pending -= 1

    async def wait_for_request(self):
        try:
            async with asyncio.timeout(DEADLINE):
                await self.requested.wait()
        except TimeoutError:
            raise AssertionError(f"the liar has received none of {self.names}") from None


async def error(override, request):
    return web.json_response({"errcode": "M_UNKNOWN", "error": LIE}, status=500)


async def invalid_json(override, request):
    return web.Response(text="{" + LIE, content_type="application/json")


async def wrong_types(override, request):
    return web.json_response(dict(zip(RESPONSE_FIELDS, (7, {"a": LIE}, LIE, None, [[[]], 7, None, {}]))))


async def empty_lists(override, request):
    return web.json_response(dict.fromkeys(RESPONSE_FIELDS, []))


async def redirect(override, request):
    raise web.HTTPTemporaryRedirect(f"https://{override.liar.name}/_matrix/federation/v1/redirected")


async def closed_connection(override, request):
    request.transport.abort()
    return web.Response()


async def no_response(override, request):
    await override.ended.wait()
    return web.Response(status=503)


async def slow_response(override, request):
    response = await begin_response(request)
    with contextlib.suppress(ConnectionError):
        while not override.ended.is_set():
            await response.write(b" ")
            await asyncio.sleep(0.2)
    return response


async def huge_response(override, request):
    response = await begin_response(request)
    with contextlib.suppress(ConnectionError):
        await response.write(b'"')
        for _ in range(HUGE // MIB):
            # asyncio logs each write after the server has closed the connection, and raises nothing.
            if request.transport is None or request.transport.is_closing():
                break
            await response.write(b"x" * MIB)
    return response


async def begin_response(request):
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"origin_server_ts":1,"events":[')
    return response


RESPONSES = {
    "an error": error,
    "invalid JSON": invalid_json,
    "values of wrong types": wrong_types,
    "empty lists": empty_lists,
    "a redirect": redirect,
    "a closed connection": closed_connection,
    "100 MiB": huge_response,
}
SLOW_RESPONSES = {"no response": no_response, "one byte at a time": slow_response}


async def faulty_responses(attack):
    responses = dict(RESPONSES)
    if "concurrent processing of a room" not in attack.host.server.unsupported:
        responses |= SLOW_RESPONSES
    await attack.ctx.run_all(
        *(faulty_response(attack, what, respond) for what, respond in responses.items()),
        false_events(attack),
        endless_history(attack),
        false_state(attack),
        unresponsive_destination(attack),
    )


async def faulty_response(attack, what, respond):
    """Mallory sends events after events that do not exist."""
    liar, room = attack.liar, attack.room
    with attack.check(f"messages are delivered while the liar responds to requests with {what}"):
        known = room.auth_events_for(room.draft(MESSAGE, text()))
        lies = [
            room.build_text(LIE, prev_events=[UNKNOWN_EVENT]),
            room.build_text(LIE, auth_events=[*known, UNKNOWN_EVENT]),
        ]
        with Override(liar, EVENT_REQUESTS, respond) as override, limited_memory(attack.host.server):
            sending = asyncio.create_task(liar.send(attack.target, lies))
            await override.wait_for_request()
            await attack.exchange_messages(PROMPT)
            while respond is huge_response and override.pending:
                await asyncio.sleep(0.1)
        await sending
        assert "redirected" not in liar.request_log, "the redirect was followed"
        await attack.run()


async def false_events(attack):
    liar, room = attack.liar, attack.room
    with attack.check("invalid events in responses of the liar are not seen"):
        lies = [event for build in EVENTS.values() for event in build(attack, room)]
        ids = [room.event_id(event) for event in power_levels(attack, room)]

        async def respond(override, request):
            chain = {"auth_chain": lies, "auth_chain_ids": ids}
            return web.json_response({"events": lies, "pdus": lies, "pdu_ids": ids} | chain)

        with Override(liar, EVENT_REQUESTS, respond) as override:
            lie = room.build_text(LIE, prev_events=[UNKNOWN_EVENT])
            sending = asyncio.create_task(liar.send(attack.target, [lie]))
            await override.wait_for_request()
            await attack.exchange_messages(PROMPT)
            await sending
        await attack.run()


async def endless_history(attack):
    liar, room = attack.liar, attack.room
    with attack.check(f"an endless history causes at most {MAX_REQUESTS} requests"):
        past = [room.build_text(LIE, prev_events=[UNKNOWN_EVENT])]
        for _ in range(20 * MAX_REQUESTS):
            past.append(room.build_text(LIE, prev_events=[room.event_id(past[-1])]))
        indices = {room.event_id(event): index for index, event in enumerate(past)}

        requests = []

        async def respond(override, request):
            name, *arguments = liar.name_and_arguments(request)
            if name == "get_missing_events":
                latest = (await request.json())["latest_events"]
            elif name == "backfill":
                latest = request.query.getall("v")
            else:
                latest = [request.query["event_id"] if "event_id" in request.query else arguments[-1]]
            # Other lies cause requests at the same time.
            if not indices.keys().isdisjoint(latest):
                requests.append(name)
            if name == "event" and latest[0] in indices:
                return web.json_response(liar.transaction([past[indices[latest[0]]]]))
            if name not in ("get_missing_events", "backfill"):
                return web.json_response({}, status=404)
            end = min(indices.get(id, 0) for id in latest)
            before = past[max(end - 10, 0) : end + (name == "backfill")]
            return web.json_response(liar.transaction(before) | {"events": before})

        with Override(liar, EVENT_REQUESTS, respond):
            sending = asyncio.create_task(liar.send(attack.target, past[-1:]))
            async with asyncio.timeout(DEADLINE):
                while not requests:
                    await asyncio.sleep(0.1)
            await attack.exchange_messages(PROMPT)
            await sending
            count = 0
            while count < (count := len(requests)) <= MAX_REQUESTS:
                await asyncio.sleep(1)
            assert count <= MAX_REQUESTS, requests
        await attack.run()


async def false_state(attack):
    """The liar claims an earlier state in which every user may set the topic."""
    liar, room = attack.liar, attack.room
    with attack.check("a false state before a made-up event does not change the room's state"):
        levels = room.build(LEVELS, {"users": {liar.user: 100}, "note": LIE}, "")
        base = room.build_text("valid, after an unknown event", prev_events=[UNKNOWN_EVENT])
        true_state = [room.events[id] for key, id in room.state.items() if key != (LEVELS, "")]
        auth_events = [id for id in room.auth_events_for(base) if id != room.state[LEVELS, ""]]
        after_base = {"prev_events": [room.event_id(base)]}
        topics = [
            room.build(TOPIC, {"topic": LIE}, "", auth_events=[*auth_events, *others], **after_base)
            for others in ([], [room.event_id(levels)])
        ]
        known = {room.event_id(event): event for event in (*room.events.values(), levels, base, *topics)}
        state = [*true_state, levels]
        ids = [room.event_id(event) for event in state]

        async def respond(override, request):
            name, *arguments = liar.name_and_arguments(request)
            if name == "event" and arguments[0] not in known:
                return web.json_response({}, status=404)
            return web.json_response(
                {
                    "event": lambda: liar.transaction([known[arguments[0]]]),
                    "event_auth": lambda: {"auth_chain": state},
                    "state": lambda: {"pdus": state, "auth_chain": state},
                    "state_ids": lambda: {"pdu_ids": ids, "auth_chain_ids": ids},
                    "backfill": lambda: liar.transaction([base]),
                    "get_missing_events": lambda: {"events": [base]},
                }[name]()
            )

        with Override(liar, EVENT_REQUESTS, respond) as override:
            sending = asyncio.create_task(liar.send(attack.target, topics))
            await override.wait_for_request()
            await attack.exchange_messages(PROMPT)
            await sending
            await attack.run()


async def unresponsive_destination(attack):
    with attack.check("the liar receives messages after a time without responses to transactions"):
        with Override(attack.liar, ["send"], no_response) as override:
            sent = [await attack.host.send_text(attack.room.id, f"message {number}") for number in range(60)]
            await attack.witness.wait_for_event(attack.room.id, sent[-1], PROMPT)
            await override.wait_for_request()
        for event in sent:
            await attack.liar.wait_for_event(event)
        await attack.run()


@contextlib.contextmanager
def limited_memory(server):
    """Checks that the server's peak memory grows by less than `MAX_MEMORY_GROWTH` during the block."""
    process = pathlib.Path(f"/proc/{server.process.pid}")
    (process / "clear_refs").write_text("5")  # resets the peak

    def peak():
        line = next(line for line in (process / "status").read_text().splitlines() if "VmHWM" in line)
        return int(line.split()[1]) * 1024

    before = peak()
    yield
    growth = peak() - before
    if "size limit of responses" not in server.unsupported:
        assert growth < MAX_MEMORY_GROWTH, f"memory grew by {growth / MIB:.0f} MiB"
