"""Somebody with an account, who syncs all the time and asks their server over the client-server API."""

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


class Refused(Exception):
    """The server answered with an error."""

    def __init__(self, status, answer, asked):
        self.status = status
        self.code = answer.get("errcode")
        super().__init__(f"{status} {self.code} {answer.get('error')} ({asked})")


@dataclasses.dataclass
class File:
    """What was downloaded."""

    content: bytes
    headers: Mapping[str, str]


class Room:
    """A room as sync tells it."""

    def __init__(self):
        self.membership = None
        self.timeline = []
        self.state = {}
        # What an invited or knocking user is shown of it
        self.preview = {}
        self.typing = []
        # User -> event id
        self.read = {}

    def content(self, type, key=""):
        event = self.state.get((type, key))
        return event["content"] if event else {}

    def member(self, user):
        return self.content("m.room.member", user).get("membership")


class User:
    def __init__(self, server, name):
        self.server = server
        self.name = name
        self.id = f"@{name}:{server.name}"
        self.rooms = {}
        self.presence = {}
        # The answers to all syncs, as text
        self.told = []
        self._numbers = itertools.count(1)
        self._news = asyncio.Condition()
        self._task = None

    def __str__(self):
        return self.name

    async def start(self, sync=True):
        self._http = aiohttp.ClientSession()
        self._token = None
        body = {"username": self.name, "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
        registered = await self.ask("POST", "register", body=body)
        self._token = registered["access_token"]
        if sync:
            self._task = asyncio.create_task(self._sync())

    async def stop(self):
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._http.close()

    async def ask(self, method, *path, body=None, version="v3", within=DEADLINE, **query):
        """`path` in segments, not yet quoted. Raises `Refused`."""
        tail = "/".join(urllib.parse.quote(part, safe="") for part in path)
        url = f"{self.server.url}/_matrix/client/{version}/{tail}?{urllib.parse.urlencode(query, doseq=True)}"
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        if method != "GET" and body is None:
            body = {}
        async with (
            asyncio.timeout(within),
            self._http.request(method, yarl.URL(url, encoded=True), json=body, headers=headers) as response,
        ):
            answer = await response.json(content_type=None)
        if response.status != 200:
            raise Refused(response.status, answer, f"{method} {tail}")
        return answer

    async def upload(self, content, type, name):
        """Returns the address of what was uploaded."""
        url = f"{self.server.url}/_matrix/media/v3/upload?filename={urllib.parse.quote(name)}"
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": type}
        async with self._http.post(yarl.URL(url, encoded=True), data=content, headers=headers) as response:
            return (await response.json())["content_uri"]

    async def download(self, uri, what="download", **query):
        """What is at an address, as `File`. Raises `Refused`."""
        path = f"{what}/{uri.removeprefix('mxc://')}"
        url = f"{self.server.url}/_matrix/client/v1/media/{path}?{urllib.parse.urlencode(query)}"
        headers = {"Authorization": f"Bearer {self._token}"}
        async with (
            asyncio.timeout(DEADLINE),
            self._http.get(yarl.URL(url, encoded=True), headers=headers) as response,
        ):
            if response.status != 200:
                raise Refused(response.status, await response.json(), path)
            return File(await response.read(), response.headers)

    # What people do

    async def create(self, version, **more):
        return (await self.ask("POST", "createRoom", body={"room_version": version, **more}))["room_id"]

    async def join(self, room, via=None):
        """`via` is a user of the server to ask, where it is not this one."""
        through = {"via": via.server.name, "server_name": via.server.name} if via else {}
        return (await self.ask("POST", "join", room, **through))["room_id"]

    async def act(self, action, room, other=None, **more):
        """`invite`, `kick`, `ban`, `unban` with another user; `leave` without."""
        return await self.ask(
            "POST", "rooms", room, action, body={"user_id": other.id, **more} if other else more
        )

    async def send(self, room, type, content):
        """Returns the event's id."""
        path = ("rooms", room, "send", type, f"{self.name}-{next(self._numbers)}")
        return (await self.ask("PUT", *path, body=content))["event_id"]

    async def say(self, room, text, **more):
        return await self.send(room, "m.room.message", {"msgtype": "m.text", "body": text, **more})

    async def set(self, room, type, content, key=""):
        return (await self.ask("PUT", "rooms", room, "state", type, key, body=content))["event_id"]

    async def history(self, room, page=50):
        """Every event of the room from its beginning on, as found by paging back."""
        events, position = [], {}
        while position is not None:
            answer = await self.ask("GET", "rooms", room, "messages", dir="b", limit=page, **position)
            events += answer["chunk"]
            position = {"from": answer["end"]} if "end" in answer else None
        return events[::-1]

    async def state(self, room):
        """(type, key) -> event id, as the server has it now."""
        events = await self.ask("GET", "rooms", room, "state")
        return {(event["type"], event["state_key"]): event["event_id"] for event in events}

    # What people see

    def room(self, room):
        return self.rooms.setdefault(room, Room())

    async def until(self, what, look, within=DEADLINE):
        """Waits until `look()` finds something after some sync, and returns it. `what` is for the complaint."""
        try:
            async with asyncio.timeout(within), self._news:
                while not (found := look()):
                    await self._news.wait()
                return found
        except TimeoutError:
            raise AssertionError(f"{self} waited {within} s for {what}") from None

    async def sees(self, room, event, within=DEADLINE):
        """Waits for an event of this id, and returns it."""

        def look():
            return next((seen for seen in self.room(room).timeline if seen["event_id"] == event), None)

        return await self.until(event, look, within)

    async def sees_member(self, room, user, membership, within=DEADLINE):
        what = f"{membership} of {user}"
        await self.until(what, lambda: self.room(room).member(user.id) == membership, within)

    async def sees_self(self, room, membership, within=DEADLINE):
        """Waits until sync lists the room under this membership (`leave` is that of bans, too)."""
        await self.until(f"own {membership}", lambda: self.room(room).membership == membership, within)

    async def _sync(self):
        query = {"timeout": 30_000, "filter": '{"room":{"timeline":{"limit":100}}}'}
        while True:
            try:
                answer = await self.ask("GET", "sync", within=60, **query)
            except (aiohttp.ClientError, TimeoutError, ValueError):
                await asyncio.sleep(0.1)  # the server is down
                continue
            except Refused as refusal:
                if refusal.status != 503:
                    raise
                await asyncio.sleep(0.1)  # it is starting or stopping
                continue
            query["since"] = answer["next_batch"]
            self.told.append(json.dumps(answer))
            self._notice(answer)
            async with self._news:
                self._news.notify_all()

    def _notice(self, answer):
        for event in answer.get("presence", {}).get("events", ()):
            self.presence[event["sender"]] = event["content"]
        for membership, rooms in answer.get("rooms", {}).items():
            for id, news in rooms.items():
                self._notice_room(self.room(id), membership, news)

    @staticmethod
    def _notice_room(room, membership, news):
        room.membership = membership
        if preview := news.get(f"{membership}_state"):
            room.preview = {(event["type"], event["state_key"]): event for event in preview["events"]}
        timeline = news.get("timeline", {}).get("events", [])
        room.timeline += timeline
        for event in (*news.get("state", {}).get("events", ()), *timeline):
            if "state_key" in event:
                room.state[event["type"], event["state_key"]] = event
        for event in news.get("ephemeral", {}).get("events", ()):
            if event["type"] == "m.typing":
                room.typing = event["content"]["user_ids"]
            elif event["type"] == "m.receipt":
                for id, receipts in event["content"].items():
                    room.read |= dict.fromkeys(receipts.get("m.read", {}), id)


async def eventually(check, within=DEADLINE):
    """Repeats a check that raises `AssertionError` until it holds: for what sync does not tell."""
    end = asyncio.get_running_loop().time() + within
    while True:
        try:
            return await check()
        except AssertionError:
            if asyncio.get_running_loop().time() > end:
                raise
        await asyncio.sleep(0.1)
