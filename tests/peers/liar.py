"""A server made by hand, with the user mallory. It keeps the protocol wherever it is not told to lie.

What it says of its own accord is signed by Synapse's libraries; whoever lies changes an event before or after
that. What it answers is changed by `traps`: name of the request, as `state_ids`, to a coroutine function that
gets the request."""

import asyncio
import contextlib
import hashlib
import itertools
import json
import time
import urllib.parse

import aiohttp
import yarl
from aiohttp import web
from bad_events import MAX
from canonicaljson import encode_canonical_json
from server import free_port
from signedjson.key import encode_verify_key_base64, generate_signing_key, get_verify_key
from signedjson.sign import sign_json
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.crypto.event_signing import compute_content_hash, compute_event_signature
from synapse.events import make_event_from_dict
from unpaddedbase64 import encode_base64

HOUR = 3_600_000


def now():
    return int(time.time() * 1000)


class Liar:
    def __init__(self, trust):
        self.trust = trust
        self.port = free_port()
        self.name = f"127.0.0.1:{self.port}"
        self.user = f"@mallory:{self.name}"
        self.key = generate_signing_key("1")
        self.dens = {}
        self.traps = {}
        # Names of all requests that came in
        self.asked = []
        self._heard = asyncio.Condition()
        self._numbers = itertools.count(1)

    async def __aenter__(self):
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self.trust.for_clients()))
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{tail:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self.trust.for_servers()).start()
        return self

    async def __aexit__(self, *_):
        await self._http.close()
        await self._runner.cleanup()

    # Asking

    async def ask(self, server, method, *path, body=None, version="v1", raw=None, **more):
        """A signed request; returns status and answer. `origin`, `destination` and `key` are for lies about
        who asks whom, `raw` is a body as text, which is signed if it is JSON; the rest is the query."""
        origin, destination = more.pop("origin", self.name), more.pop("destination", server)
        key = more.pop("key", self.key)
        if raw is not None:
            with contextlib.suppress(ValueError, RecursionError):
                body = json.loads(encode_canonical_json(json.loads(raw)))
        uri = "/".join(("/_matrix/federation", version, *(urllib.parse.quote(part, safe="") for part in path)))
        if more:
            uri += "?" + urllib.parse.urlencode(more, doseq=True)
        signed = {"method": method, "uri": uri, "origin": origin, "destination": destination}
        if body is not None:
            signed["content"] = body
        ((key_id, signature),) = sign_json(signed, origin, key)["signatures"][origin].items()
        sender = f'origin="{origin}",destination="{destination}",key="{key_id}",sig="{signature}"'
        headers = {"Content-Type": "application/json", "Authorization": f"X-Matrix {sender}"}
        if raw is None and body is not None:
            raw = json.dumps(body)
        url = yarl.URL(f"https://{server}{uri}", encoded=True)
        async with self._http.request(method, url, data=raw, headers=headers) as response:
            text = await response.text()
        with contextlib.suppress(json.JSONDecodeError):
            text = json.loads(text)
        return response.status, text

    async def send(self, server, pdus=(), edus=(), **more):
        """A transaction; returns status and answer."""
        body = {"origin": self.name, "origin_server_ts": now(), "pdus": list(pdus), "edus": list(edus)}
        return await self.ask(server, "PUT", "send", f"{now()}-{next(self._numbers)}", body=body, **more)

    async def join(self, server, room, version):
        """Joins through a server that is in the room; returns the den."""
        den = Den(self, version, room)
        status, made = await self.ask(server, "GET", "make_join", room, self.user, ver=[version])
        assert status == 200, made
        member = den.seal(made["event"] | {"origin_server_ts": now()})
        path = ("send_join", room, den.id_of(member))
        status, answer = await self.ask(server, "PUT", *path, version="v2", body=member)
        assert status == 200, answer
        for pdu in answer["state"]:
            den.take(pdu)
        den.tips = set(member["prev_events"])
        den.since = member["depth"]
        den.take(member)
        self.dens[room] = den
        return den

    async def hears(self, event, within=30):
        try:
            async with asyncio.timeout(within), self._heard:
                while not any(event in den.events for den in self.dens.values()):
                    await self._heard.wait()
        except TimeoutError:
            raise AssertionError(f"the liar waited {within} s for {event}") from None

    # Answering

    async def _answer(self, request):
        name, *arguments = self.question(request)
        self.asked.append(name)
        if name in self.traps:
            return await self.traps[name](request)
        answer = getattr(self, f"_{name}", None)
        body = await request.json() if request.can_read_body else {}
        found = await answer(request, body, *arguments) if answer else None
        if found is None:
            return web.json_response({"errcode": "M_NOT_FOUND", "error": "not here"}, status=404)
        return web.json_response(found)

    def question(self, request):
        """The name of what is asked for, and the rest of the path."""
        path = [urllib.parse.unquote(part) for part in request.rel_url.raw_path.split("/")[2:]]
        return path[2:] if path[0] == "federation" else path[:1]

    async def _key(self, *_):
        return self.keys()

    def keys(self, **lies):
        verify = {f"ed25519:{self.key.version}": {"key": encode_verify_key_base64(get_verify_key(self.key))}}
        keys = {"server_name": self.name, "verify_keys": verify, "old_verify_keys": {}}
        return sign_json(keys | {"valid_until_ts": now() + HOUR} | lies, self.name, self.key)

    async def _send(self, request, body, txn):
        taken = {}
        for pdu in body["pdus"]:
            if den := self.dens.get(pdu.get("room_id")):
                await self._fetch(den, pdu["prev_events"], body["origin"])
                taken[den.take(pdu)] = {}
        async with self._heard:
            self._heard.notify_all()
        return {"pdus": taken}

    async def _fetch(self, den, events, server):
        """What the liar has missed since it came into the room."""
        for id in set(events) - den.events.keys():
            status, answer = await self.ask(server, "GET", "event", id)
            if status == 200 and answer["pdus"][0]["depth"] > den.since:
                await self._fetch(den, answer["pdus"][0]["prev_events"], server)
                den.take(answer["pdus"][0])

    async def _event(self, request, body, event):
        for den in self.dens.values():
            if event in den.events:
                return self.transaction([den.events[event]])

    async def _get_missing_events(self, request, body, room):
        if den := self.dens.get(room):
            return {"events": den.between(body["earliest_events"], body["latest_events"], body["limit"])}

    def transaction(self, pdus):
        return {"origin": self.name, "origin_server_ts": now(), "pdus": pdus}

    async def _make_join(self, request, body, room, user):
        if den := self.dens.get(room):
            content = {"membership": "join"}
            event = den.draft("m.room.member", content, user, sender=user)
            return {"room_version": den.version, "event": event}

    async def _send_join(self, request, body, room, event):
        if den := self.dens.get(room):
            return den.welcome(body)

    async def _query(self, request, body, *_):
        return {}


class Den:
    """A room as the liar has it: in the order in which its events came, without resolving anything."""

    def __init__(self, liar, version, id=None):
        self.liar = liar
        self.version = version
        self.rules = KNOWN_ROOM_VERSIONS[version]
        self.id = id
        self.events = {}
        self.state = {}
        self.tips = set()
        self.depth = 0
        # The depth at which the liar came in
        self.since = 0

    @classmethod
    def found(cls, liar, version):
        """A new public room, with nobody but mallory in it."""
        den = cls(liar, version)
        create = den.draft("m.room.create", {"room_version": version, "creator": liar.user}, "")
        if den.rules.msc4291_room_ids_as_hashes:
            del create["room_id"]
            den.id = "!" + den.id_of(den.seal(create))[1:]
        else:
            den.id = create["room_id"] = f"!{now()}:{liar.name}"
        den.take(den.seal(create))
        den.do("m.room.member", {"membership": "join"}, liar.user)
        powers = {} if den.rules.msc4289_creator_power_enabled else {liar.user: 100}
        den.do("m.room.power_levels", {"users": powers}, "")
        den.do("m.room.join_rules", {"join_rule": "public"}, "")
        liar.dens[den.id] = den
        return den

    def draft(self, type, content, state_key=None, **fields):
        """An event after all that is known; `fields` replace what would be right."""
        event = {
            "type": type,
            "content": content,
            "sender": self.liar.user,
            "room_id": self.id,
            "origin_server_ts": now(),
            "depth": min(self.depth + 1, MAX),
            "prev_events": sorted(self.tips),
        }
        if state_key is not None:
            event["state_key"] = state_key
        return event | {"auth_events": self.authority(event | fields)} | fields

    def authority(self, event):
        keys = [("m.room.power_levels", ""), ("m.room.member", event["sender"])]
        if not self.rules.msc4291_room_ids_as_hashes:
            keys.append(("m.room.create", ""))
        if event["type"] == "m.room.member":
            keys += [("m.room.member", event["state_key"]), ("m.room.join_rules", "")]
        return list(dict.fromkeys(self.state[key] for key in keys if key in self.state))

    def sign(self, event, key=None, name=None):
        """Signs it as it is, whatever its hash is."""
        key, name = key or self.liar.key, name or self.liar.name
        try:
            signatures = compute_event_signature(self.rules, event, name, key)
        except RuntimeError:
            # Not even redaction makes sense of it.
            signatures = sign_json(event, name, key)["signatures"]
        return event | {"signatures": signatures}

    def seal(self, event, **by):
        event = {field: event[field] for field in event if field not in ("hashes", "signatures", "unsigned")}
        _, hash = compute_content_hash(event, hashlib.sha256)
        return self.sign(event | {"hashes": {"sha256": encode_base64(hash)}}, **by)

    def make(self, *event, **fields):
        return self.seal(self.draft(*event, **fields))

    def say(self, text, **fields):
        return self.make("m.room.message", {"msgtype": "m.text", "body": text}, **fields)

    def do(self, *event, **fields):
        """Makes an event that holds, for the liar at least."""
        event = self.make(*event, **fields)
        self.take(event)
        return event

    def id_of(self, event):
        return make_event_from_dict(event, self.rules).event_id

    def take(self, event):
        id = self.id_of(event)
        if id not in self.events:
            self.events[id] = event
            self.tips = self.tips - set(event["prev_events"]) | {id}
            self.depth = max(self.depth, event["depth"])
            if "state_key" in event:
                self.state[event["type"], event["state_key"]] = id
        return id

    def between(self, earliest, latest, limit):
        """What comes before the latest and after the earliest events."""
        found, ends = {}, list(latest)
        while ends and len(found) < limit:
            for id in self.events.get(ends.pop(0), {"prev_events": []})["prev_events"]:
                if id in self.events and id not in found and id not in earliest:
                    found[id] = self.events[id]
                    ends.append(id)
        return list(found.values())[::-1]

    def welcome(self, member):
        """The answer to `send_join`."""
        state = [self.events[id] for id in self.state.values()]
        self.take(member)
        return {
            "origin": self.liar.name,
            "event": member,
            "state": state,
            "auth_chain": state,
            "members_omitted": False,
            "servers_in_room": [self.liar.name],
        }
