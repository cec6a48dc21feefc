"""A mock homeserver with one user, mallory. It follows the protocol except where a test makes it lie.

Its events are signed by Synapse's libraries. A test forges an event by changing it before or after that.
`overrides` replaces responses: the name of a request, such as `state_ids`, maps to a coroutine function that
gets the request."""

import asyncio
import contextlib
import hashlib
import itertools
import json
import secrets
import time
import urllib.parse

import aiohttp
import yarl
from aiohttp import web
from bad_events import MAX_INTEGER
from canonicaljson import encode_canonical_json
from server import free_port
from signedjson.key import encode_verify_key_base64, generate_signing_key, get_verify_key
from signedjson.sign import sign_json
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS, EventFormatVersions
from synapse.crypto.event_signing import compute_content_hash, compute_event_reference_hash, compute_event_signature
from synapse.events import make_event_from_dict
from unpaddedbase64 import encode_base64

HOUR_MS = 3_600_000


def now():
    return int(time.time() * 1000)


def references(event, field):
    """The ids of an event's `prev_events` or `auth_events`, which room versions 1 and 2 have with hashes."""
    return [reference if isinstance(reference, str) else reference[0] for reference in event[field]]


def unused_port(used=set()):
    """A port, and so a server name, that no liar had before."""
    while (port := free_port()) in used:
        pass
    used.add(port)
    return port


class Liar:
    def __init__(self, certificates, user="mallory"):
        self.certificates = certificates
        self.port = unused_port()
        self.name = f"127.0.0.1:{self.port}"
        self.user = f"@{user}:{self.name}"
        self.key = generate_signing_key("1")
        self.rooms = {}
        self.overrides = {}
        # The names of all received requests
        self.request_log = []
        self._received = asyncio.Condition()
        self._numbers = itertools.count(1)

    async def __aenter__(self):
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self.certificates.client_context()))
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{tail:.*}", self._respond)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self.certificates.server_context()).start()
        return self

    async def __aexit__(self, *_):
        await self._runner.cleanup()
        await self._http.close()

    # Requests

    async def request(self, server, method, *path, body=None, version="v1", raw=None, **options):
        """Sends a signed request; returns status and body. `origin`, `destination` and `key` forge the
        signature, `raw` is a body as text, which is signed if it is JSON. Other arguments are the query."""
        origin, destination = options.pop("origin", self.name), options.pop("destination", server)
        key = options.pop("key", self.key)
        if raw is not None:
            with contextlib.suppress(ValueError, RecursionError):
                body = json.loads(encode_canonical_json(json.loads(raw)))
        uri = "/".join(("/_matrix/federation", version, *(urllib.parse.quote(part, safe="") for part in path)))
        if options:
            uri += "?" + urllib.parse.urlencode(options, doseq=True)
        signed = {"method": method, "uri": uri, "origin": origin, "destination": destination}
        if body is not None:
            signed["content"] = body
        ((key_id, signature),) = sign_json(signed, origin, key)["signatures"][origin].items()
        sender = f'origin="{origin}",destination="{destination}",key="{key_id}",sig="{signature}"'
        headers = {"Content-Type": "application/json", "Authorization": f"X-Matrix {sender}"}
        if raw is None and body is not None:
            # As Synapse sends it
            raw = encode_canonical_json(body)
        url = yarl.URL(f"https://{server}{uri}", encoded=True)
        async with self._http.request(method, url, data=raw, headers=headers) as response:
            text = await response.text()
        with contextlib.suppress(json.JSONDecodeError):
            text = json.loads(text)
        return response.status, text

    async def send(self, server, pdus=(), edus=(), **options):
        """Sends a transaction; returns status and body."""
        body = {"origin": self.name, "origin_server_ts": now(), "pdus": list(pdus), "edus": list(edus)}
        return await self.request(server, "PUT", "send", f"{now()}-{next(self._numbers)}", body=body, **options)

    async def join(self, server, room, version):
        """Joins a room through `server`; returns it as `LiarRoom`."""
        liar_room = LiarRoom(self, version, room)
        status, template = await self.request(server, "GET", "make_join", room, self.user, ver=[version])
        assert status == 200, template
        member = template["event"] | {"origin_server_ts": now()}
        if liar_room.chooses_event_ids:
            member["event_id"] = liar_room.new_event_id()
        member = liar_room.hash_and_sign(member)
        path = ("send_join", room, liar_room.event_id(member))
        status, response = await self.request(server, "PUT", *path, version="v2", body=member)
        assert status == 200, response
        for pdu in response["state"]:
            liar_room.add(pdu)
        liar_room.extremities = set(references(member, "prev_events"))
        liar_room.joined_depth = member["depth"]
        liar_room.add(member)
        self.rooms[room] = liar_room
        return liar_room

    async def wait_for_event(self, event, within=30):
        try:
            async with asyncio.timeout(within), self._received:
                while not any(event in liar_room.events for liar_room in self.rooms.values()):
                    await self._received.wait()
        except TimeoutError:
            raise AssertionError(f"the liar has not received {event} within {within} s") from None

    # Responses

    async def _respond(self, request):
        name, *arguments = self.name_and_arguments(request)
        self.request_log.append(name)
        if name in self.overrides:
            return await self.overrides[name](request)
        handler = getattr(self, f"_{name}", None)
        body = await request.json() if request.can_read_body else {}
        response = await handler(request, body, *arguments) if handler else None
        if response is None:
            return web.json_response({"errcode": "M_NOT_FOUND", "error": "not found"}, status=404)
        return web.json_response(response)

    def name_and_arguments(self, request):
        """The name of a request, such as `state_ids`, and the rest of its path."""
        path = [urllib.parse.unquote(part) for part in request.rel_url.raw_path.split("/")[2:]]
        return path[2:] if path[0] == "federation" else path[:1]

    async def _key(self, *_):
        return self.keys()

    def keys(self, **forged):
        verify = {f"ed25519:{self.key.version}": {"key": encode_verify_key_base64(get_verify_key(self.key))}}
        keys = {"server_name": self.name, "verify_keys": verify, "old_verify_keys": {}}
        return sign_json(keys | {"valid_until_ts": now() + HOUR_MS} | forged, self.name, self.key)

    async def _send(self, request, body, txn):
        accepted = {}
        for pdu in body["pdus"]:
            if liar_room := self.rooms.get(pdu.get("room_id")):
                await self._fetch(liar_room, references(pdu, "prev_events"), body["origin"])
                accepted[liar_room.add(pdu)] = {}
        async with self._received:
            self._received.notify_all()
        return {"pdus": accepted}

    async def _fetch(self, liar_room, events, server):
        """Fetches missing events from after the join."""
        for id in set(events) - liar_room.events.keys():
            status, response = await self.request(server, "GET", "event", id)
            if status == 200 and response["pdus"][0]["depth"] > liar_room.joined_depth:
                await self._fetch(liar_room, references(response["pdus"][0], "prev_events"), server)
                liar_room.add(response["pdus"][0])

    async def _event(self, request, body, event):
        for liar_room in self.rooms.values():
            if event in liar_room.events:
                return self.transaction([liar_room.events[event]])

    async def _get_missing_events(self, request, body, room):
        if liar_room := self.rooms.get(room):
            return {"events": liar_room.missing_events(body["earliest_events"], body["latest_events"], body["limit"])}

    async def _state_ids(self, request, body, room):
        state = self._state_before(request, room)
        if state is not None:
            chain = [self.rooms[room].event_id(event) for event in self.rooms[room].auth_chain(state)]
            return {"pdu_ids": state, "auth_chain_ids": chain}

    async def _state(self, request, body, room):
        state = self._state_before(request, room)
        if state is not None:
            liar_room = self.rooms[room]
            return {"pdus": [liar_room.events[id] for id in state], "auth_chain": liar_room.auth_chain(state)}

    def _state_before(self, request, room):
        """The ids of the state before the event of a request, if that is known."""
        liar_room, event = self.rooms.get(room), request.query.get("event_id")
        if liar_room and liar_room.state_before and event in liar_room.events:
            return liar_room.state_before(event)

    def transaction(self, pdus):
        return {"origin": self.name, "origin_server_ts": now(), "pdus": pdus}

    async def _make_join(self, request, body, room, user):
        if liar_room := self.rooms.get(room):
            content = {"membership": "join"}
            event = liar_room.draft("m.room.member", content, user, sender=user)
            return {"room_version": liar_room.version, "event": event}

    async def _send_join(self, request, body, room, event):
        if liar_room := self.rooms.get(room):
            return liar_room.send_join_response(body)

    async def _query(self, request, body, *_):
        return {}


class LiarRoom:
    """A room as the liar stores it: its events in order of arrival, and the state without resolution."""

    def __init__(self, liar, version, id=None):
        self.liar = liar
        self.version = version
        self.rules = KNOWN_ROOM_VERSIONS[version]
        self.id = id
        self.events = {}
        self.state = {}
        self.extremities = set()
        self.depth = 0
        # The depth of the join
        self.joined_depth = 0
        # Returns the ids of the state before an event. Without it, requests for a state are not answered.
        self.state_before = None
        # In room versions 1 and 2
        self.chooses_event_ids = self.rules.event_format == EventFormatVersions.ROOM_V1_V2

    @classmethod
    def create(cls, liar, version):
        """Creates a public room with mallory as its only member."""
        liar_room = cls(liar, version)
        create = liar_room.draft("m.room.create", {"room_version": version, "creator": liar.user}, "")
        if liar_room.rules.msc4291_room_ids_as_hashes:
            del create["room_id"]
            liar_room.id = "!" + liar_room.event_id(liar_room.hash_and_sign(create))[1:]
        else:
            liar_room.id = create["room_id"] = f"!{now()}:{liar.name}"
        liar_room.add(liar_room.hash_and_sign(create))
        liar_room.build_and_add("m.room.member", {"membership": "join"}, liar.user)
        users = {} if liar_room.rules.msc4289_creator_power_enabled else {liar.user: 100}
        liar_room.build_and_add("m.room.power_levels", {"users": users}, "")
        liar_room.build_and_add("m.room.join_rules", {"join_rule": "public"}, "")
        liar.rooms[liar_room.id] = liar_room
        return liar_room

    def draft(self, type, content, state_key=None, **fields):
        """An unsigned event after the forward extremities. `fields` replace the correct values."""
        event = {
            "type": type,
            "content": content,
            "sender": self.liar.user,
            "room_id": self.id,
            "origin_server_ts": now(),
            "depth": min(self.depth + 1, MAX_INTEGER),
            "prev_events": sorted(self.extremities),
        }
        if state_key is not None:
            event["state_key"] = state_key
        event |= {"auth_events": self.auth_events_for(event | fields)} | fields
        if self.chooses_event_ids:
            event = {"event_id": self.new_event_id()} | event
            for field in ("prev_events", "auth_events"):
                event[field] = [self.reference(id) for id in event[field]]
        return event

    def new_event_id(self):
        return f"${secrets.token_hex(8)}:{self.liar.name}"

    def reference(self, id):
        event = make_event_from_dict(self.events[id], self.rules)
        name, hash = compute_event_reference_hash(event)
        return [id, {name: encode_base64(hash)}]

    def auth_events_for(self, event):
        keys = [("m.room.power_levels", ""), ("m.room.member", event["sender"])]
        if not self.rules.msc4291_room_ids_as_hashes:
            keys.append(("m.room.create", ""))
        if event["type"] == "m.room.member":
            keys.append(("m.room.member", event["state_key"]))
            if event["content"].get("membership") in ("join", "invite", "knock"):
                keys.append(("m.room.join_rules", ""))
        return list(dict.fromkeys(self.state[key] for key in keys if key in self.state))

    def sign(self, event, key=None, name=None):
        """Signs an event without changing it, whatever its hashes are."""
        key, name = key or self.liar.key, name or self.liar.name
        try:
            signatures = compute_event_signature(self.rules, event, name, key)
        except RuntimeError:
            # The event cannot be redacted.
            signatures = sign_json(event, name, key)["signatures"]
        return event | {"signatures": signatures}

    def hash_and_sign(self, event, **by):
        event = {field: event[field] for field in event if field not in ("hashes", "signatures", "unsigned")}
        _, hash = compute_content_hash(event, hashlib.sha256)
        return self.sign(event | {"hashes": {"sha256": encode_base64(hash)}}, **by)

    def build(self, *event, **fields):
        return self.hash_and_sign(self.draft(*event, **fields))

    def build_text(self, text, **fields):
        return self.build("m.room.message", {"msgtype": "m.text", "body": text}, **fields)

    def build_and_add(self, *event, **fields):
        """Builds an event and adds it to the room."""
        event = self.build(*event, **fields)
        self.add(event)
        return event

    def event_id(self, event):
        return make_event_from_dict(event, self.rules).event_id

    def add(self, event):
        id = self.event_id(event)
        if id not in self.events:
            self.events[id] = event
            self.extremities = self.extremities - set(references(event, "prev_events")) | {id}
            self.depth = max(self.depth, event["depth"])
            if "state_key" in event:
                self.state[event["type"], event["state_key"]] = id
        return id

    def missing_events(self, earliest, latest, limit):
        """The events before `latest` and after `earliest`."""
        found, ends = {}, list(latest)
        while ends and len(found) < limit:
            for id in references(self.events.get(ends.pop(0), {"prev_events": []}), "prev_events"):
                if id in self.events and id not in found and id not in earliest:
                    found[id] = self.events[id]
                    ends.append(id)
        return list(found.values())[::-1]

    def auth_chain(self, events):
        """The events to which these refer, directly or not."""
        found, open_ids = {}, list(events)
        while open_ids:
            for id in references(self.events[open_ids.pop()], "auth_events"):
                if id not in found and id in self.events:
                    found[id] = self.events[id]
                    open_ids.append(id)
        return list(found.values())

    def send_join_response(self, member):
        state = [self.events[id] for id in self.state.values()]
        self.add(member)
        return {
            "origin": self.liar.name,
            "event": member,
            "state": state,
            "auth_chain": state,
            "members_omitted": False,
            "servers_in_room": [self.liar.name],
        }
