"""A user with an account, who syncs continuously and sends requests of the client-server API."""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import urllib.parse
from collections.abc import Mapping

import aiohttp
import yarl

DEADLINE = 30
PASSWORD = "correct horse battery staple"


class RequestFailed(Exception):
    """The server responded with an error."""

    def __init__(self, status, response, request):
        self.status = status
        self.code = response.get("errcode")
        super().__init__(f"{status} {self.code} {response.get('error')} ({request})")


@dataclasses.dataclass
class Download:

    content: bytes
    headers: Mapping[str, str]


class Room:
    """A room according to `/sync`."""

    def __init__(self):
        self.membership = None
        self.timeline = []
        self.state = {}
        # (type, state key) -> stripped event, of invites and knocks
        self.stripped_state = {}
        self.typing = []
        # User -> event id
        self.receipts = {}

    def content(self, type, key=""):
        event = self.state.get((type, key))
        return event["content"] if event else {}

    def membership_of(self, user):
        return self.content("m.room.member", user).get("membership")


class User:
    def __init__(self, server, name):
        self.server = server
        self.name = name
        self.id = f"@{name}:{server.name}"
        self.rooms = {}
        self.presence = {}
        self.to_device = []
        # As text
        self.sync_responses = []
        self._numbers = itertools.count(1)
        self._synced = asyncio.Condition()
        self._task = None

    def __str__(self):
        return self.name

    async def start(self, sync=True):
        self._http = aiohttp.ClientSession()
        self._token = None
        body = {"username": self.name, "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
        registered = await self.request("POST", "register", body=body)
        self._token = registered["access_token"]
        if sync:
            self._task = asyncio.create_task(self._sync())

    async def stop(self):
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._http.close()

    async def request(self, method, *path, body=None, version="v3", within=DEADLINE, **query):
        """`path` has segments that are not percent-encoded. Raises `RequestFailed`."""
        tail = "/".join(urllib.parse.quote(part, safe="") for part in path)
        url = f"{self.server.url}/_matrix/client/{version}/{tail}?{urllib.parse.urlencode(query, doseq=True)}"
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        if method != "GET" and body is None:
            body = {}
        async with (
            asyncio.timeout(within),
            self._http.request(method, yarl.URL(url, encoded=True), json=body, headers=headers) as response,
        ):
            parsed = await response.json(content_type=None)
        if response.status != 200:
            raise RequestFailed(response.status, parsed, f"{method} {tail}")
        return parsed

    async def upload(self, content, type, name):
        """Returns the `mxc://` URI."""
        url = f"{self.server.url}/_matrix/media/v3/upload?filename={urllib.parse.quote(name)}"
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": type}
        async with self._http.post(yarl.URL(url, encoded=True), data=content, headers=headers) as response:
            return (await response.json())["content_uri"]

    async def download(self, uri, what="download", **query):
        """Raises `RequestFailed`."""
        path = f"{what}/{uri.removeprefix('mxc://')}"
        url = f"{self.server.url}/_matrix/client/v1/media/{path}?{urllib.parse.urlencode(query)}"
        headers = {"Authorization": f"Bearer {self._token}"}
        async with (
            asyncio.timeout(DEADLINE),
            self._http.get(yarl.URL(url, encoded=True), headers=headers) as response,
        ):
            if response.status != 200:
                raise RequestFailed(response.status, await response.json(), path)
            return Download(await response.read(), response.headers)

    # Requests

    def may_create_room(self, version):
        """Whether the user's server creates rooms of this version."""
        return version not in ("1", "2") or "creation of rooms of versions 1 and 2" not in self.server.unsupported

    async def create_room(self, version, **fields):
        return (await self.request("POST", "createRoom", body={"room_version": version, **fields}))["room_id"]

    async def join(self, room, via=None):
        """`via` is a user of the server to join through."""
        query = {"via": via.server.name, "server_name": via.server.name} if via else {}
        return (await self.request("POST", "join", room, **query))["room_id"]

    async def change_membership(self, action, room, other=None, **fields):
        """`invite`, `kick`, `ban`, `unban` of another user, or `leave`."""
        return await self.request(
            "POST", "rooms", room, action, body={"user_id": other.id, **fields} if other else fields
        )

    async def send_event(self, room, type, content):
        """Returns the event id."""
        path = ("rooms", room, "send", type, f"{self.name}-{next(self._numbers)}")
        return (await self.request("PUT", *path, body=content))["event_id"]

    async def send_text(self, room, text, **fields):
        return await self.send_event(room, "m.room.message", {"msgtype": "m.text", "body": text, **fields})

    async def set_state(self, room, type, content, key=""):
        return (await self.request("PUT", "rooms", room, "state", type, key, body=content))["event_id"]

    async def history(self, room, page=50):
        """All events of the room by `/messages`, oldest first."""
        events, position = [], {}
        while position is not None:
            response = await self.request("GET", "rooms", room, "messages", dir="b", limit=page, **position)
            events += response["chunk"]
            position = {"from": response["end"]} if "end" in response else None
        return events[::-1]

    async def state(self, room):
        """(type, state key) -> event id, by `/state`."""
        events = await self.request("GET", "rooms", room, "state")
        return {(event["type"], event["state_key"]): event["event_id"] for event in events}

    # Results of syncs

    def room(self, room):
        return self.rooms.setdefault(room, Room())

    async def wait_until(self, what, find, within=DEADLINE):
        """Waits until `find()` returns something after a sync, and returns it. `what` is for the error."""
        try:
            async with asyncio.timeout(within), self._synced:
                while not (found := find()):
                    await self._synced.wait()
                return found
        except TimeoutError:
            raise AssertionError(f"{self} has not seen {what} within {within} s") from None

    async def wait_for_event(self, room, event, within=DEADLINE):
        """Waits for an event by id, and returns it."""

        def find():
            return next((seen for seen in self.room(room).timeline if seen["event_id"] == event), None)

        return await self.wait_until(event, find, within)

    async def wait_for_member(self, room, user, membership, within=DEADLINE):
        what = f"{membership} of {user}"
        await self.wait_until(what, lambda: self.room(room).membership_of(user.id) == membership, within)

    async def wait_for_own_membership(self, room, membership, within=DEADLINE):
        """Waits until sync lists the room under this membership (`leave` includes bans)."""
        await self.wait_until(f"own {membership}", lambda: self.room(room).membership == membership, within)

    async def _sync(self):
        query = {"timeout": 30_000, "filter": '{"room":{"timeline":{"limit":100}}}'}
        while True:
            try:
                response = await self.request("GET", "sync", within=60, **query)
            except (aiohttp.ClientError, TimeoutError, ValueError):
                await asyncio.sleep(0.1)  # the server is down
                continue
            except RequestFailed as error:
                if error.status != 503:
                    raise
                await asyncio.sleep(0.1)  # it is starting or stopping
                continue
            query["since"] = response["next_batch"]
            self.sync_responses.append(json.dumps(response))
            self._apply_sync(response)
            async with self._synced:
                self._synced.notify_all()

    def _apply_sync(self, response):
        for event in response.get("presence", {}).get("events", ()):
            self.presence[event["sender"]] = event["content"]
        self.to_device += response.get("to_device", {}).get("events", ())
        for membership, rooms in response.get("rooms", {}).items():
            for id, update in rooms.items():
                self._apply_room(self.room(id), membership, update)

    @staticmethod
    def _apply_room(room, membership, update):
        room.membership = membership
        if preview := update.get(f"{membership}_state"):
            room.stripped_state = {(event["type"], event["state_key"]): event for event in preview["events"]}
        timeline = update.get("timeline", {}).get("events", [])
        room.timeline += timeline
        for event in (*update.get("state", {}).get("events", ()), *timeline):
            if "state_key" in event:
                room.state[event["type"], event["state_key"]] = event
        for event in update.get("ephemeral", {}).get("events", ()):
            if event["type"] == "m.typing":
                room.typing = event["content"]["user_ids"]
            elif event["type"] == "m.receipt":
                for id, receipts in event["content"].items():
                    room.receipts |= dict.fromkeys(receipts.get("m.read", {}), id)


async def eventually(check, within=DEADLINE):
    """Repeats a check until it raises no `AssertionError`. For conditions that are not visible in syncs."""
    end = asyncio.get_running_loop().time() + within
    while True:
        try:
            return await check()
        except AssertionError:
            if asyncio.get_running_loop().time() > end:
                raise
        await asyncio.sleep(0.1)
