"""What Element X does, step by step."""

import asyncio
import random

from account import PASSWORD, Account
from client import ENCRYPTED_COMMANDS, Client, ClientFailure

ROOMS = 300
PAGE = 20
MISSED = 300


class Scenario:
    def __init__(self, checks, server, agent, directory):
        self.check = checks.check
        self.server = server
        self.directory = directory
        self._commands = ENCRYPTED_COMMANDS | {"sdk": [agent]}
        self._clients = []

    async def run(self):
        with self.check("the server starts"):
            self.server.start()
        self.bob = Account(self.server.url, "bob")
        self.rooms = await asyncio.to_thread(self.prepare)
        await self.log_in()
        await self.room_list()
        await self.invites()
        await self.counts()
        await self.timeline()
        await self.threads()
        await self.encryption()
        await self.notifications()
        await self.killed_client()
        await self.killed_server()

    async def stop(self):
        for client in list(self._clients):
            await self.kill(client)

    async def kill(self, client):
        self._clients.remove(client)
        await client.stop()

    async def client(self, name, kind):
        """A client in its own directory, where it finds what an earlier one of the name left."""
        home = self.directory / name
        home.mkdir(exist_ok=True)
        client = Client(name, kind, home, self._commands)
        await client.start(self.server.url)
        self._clients.append(client)
        return client

    def prepare(self):
        """Alice's rooms, the last active first."""
        account = self.seed = Account(self.server.url, "alice")
        rooms = [account.create_room(f"Room {number:03}") for number in range(ROOMS)]
        random.Random(19).shuffle(rooms)
        for number, room in enumerate(rooms):
            account.send(room, f"message {number}")
        for room in rooms[:2]:
            account.tag(room, "m.favourite")
        return rooms[::-1]

    async def log_in(self):
        self.alice = await self.client("alice", "sdk")
        with self.check("matrix-sdk-ui logs in and its SyncService runs"):
            await self.alice.call("login", user="alice", password=PASSWORD)
            await self.alice.call("sync")
            await self.alice.wait_for("sync", state="Running")

    async def shown(self, is_right, what, client=None, since=0, **fields):
        """Waits until a snapshot of the client is right."""
        client = client or self.alice
        key = {"rooms": "rooms", "timeline": "items"}[what]
        try:
            found = await client.wait_for(what, since=since, **{key: lambda shown: bool(is_right(shown))}, **fields)
        except ClientFailure as failure:
            raise ClientFailure(f"{failure}; last: {last_of(client, what, key, fields)}") from None
        return found[key]

    async def room_list(self):
        alice = self.alice
        with self.check("the first page of the room list has the rooms that were active last, in that order"):
            await self.shown(lambda rooms: ids(rooms) == self.rooms[:PAGE], "rooms")
        with self.check(f"page by page, all {ROOMS} rooms are in the list, in order and with their names"):
            await alice.wait_for("count", rooms=ROOMS)
            for _ in range(PAGE, ROOMS, PAGE):
                await alice.call("more")
            names = {f"Room {number:03}" for number in range(ROOMS)}
            await self.shown(
                lambda rooms: ids(rooms) == self.rooms and {room["name"] for room in rooms} == names, "rooms"
            )
        with self.check("a filter by name and one for favourites show what they are for"):
            await alice.call("filter", kind="name", pattern="Room 123")
            await self.shown(lambda rooms: [room["name"] for room in rooms] == ["Room 123"], "rooms")
            await alice.call("filter", kind="favourite")
            await self.shown(lambda rooms: ids(rooms) == self.rooms[-2:], "rooms")
            await alice.call("filter", kind="all")
            await self.shown(lambda rooms: ids(rooms)[:PAGE] == self.rooms[:PAGE], "rooms", since=alice.position())
        with self.check("a room with a new message moves to the top"):
            self.room = self.rooms[200]
            await asyncio.to_thread(self.seed.invite, self.room, self.bob.user)
            await asyncio.to_thread(self.bob.join, self.room)
            await asyncio.to_thread(self.bob.send, self.room, "up")
            await self.shown(lambda rooms: ids(rooms)[:1] == [self.room], "rooms")

    async def invites(self):
        alice = self.alice
        with self.check("invitations are in the list with the name of the room"):
            rooms = [
                await asyncio.to_thread(self.bob.create_room, name, ["@alice:localhost"], is_direct=True)
                for name in ("Yes", "No")
            ]
            since = alice.position()
            await alice.call("filter", kind="invite")
            invited = {(rooms[0], "Yes", "Invited"), (rooms[1], "No", "Invited")}
            await self.shown(
                lambda shown: {(room["id"], room["name"], room["state"]) for room in shown} == invited,
                "rooms",
                since=since,
            )
        with self.check("an invitation that is accepted becomes a room, one that is declined is gone"):
            since = alice.position()
            await alice.call("join", room=rooms[0])
            await alice.call("decline", room=rooms[1])
            await self.shown(lambda shown: shown == [], "rooms", since=since)
            since = alice.position()
            await alice.call("filter", kind="all")
            await self.shown(
                lambda shown: rooms[1] not in ids(shown) and state_of(shown, rooms[0]) == "Joined",
                "rooms",
                since=since,
            )

    async def counts(self):
        alice, bob, room = self.alice, self.bob, self.rooms[100]
        with self.check("a room has its unread and highlight counts, and is in the filter for unread rooms"):
            await asyncio.to_thread(self.seed.invite, room, bob.user)
            await asyncio.to_thread(bob.join, room)
            for body in ("one", "two"):
                await asyncio.to_thread(bob.send, room, body)
            mention = {"m.mentions": {"user_ids": ["@alice:localhost"]}}
            await asyncio.to_thread(lambda: bob.send(room, "three", **mention))
            await self.shown(lambda shown: counts_of(shown, room) == (3, 1), "rooms")
            since = alice.position()
            await alice.call("filter", kind="unread")
            await self.shown(lambda shown: room in ids(shown), "rooms", since=since)
        with self.check("reading it resets the counts"):
            await alice.call("open", key="counts", room=room)
            await self.shown(lambda items: bodies(items)[-3:] == ["one", "two", "three"], "timeline", key="counts")
            await alice.call("filter", kind="all")
            since = alice.position()
            await alice.call("read", key="counts")
            await self.shown(lambda shown: counts_of(shown, room) == (0, 0), "rooms", since=since)

    async def timeline(self):
        alice, bob, room = self.alice, self.bob, self.room

        async def main(is_right, since=0):
            return await self.shown(is_right, "timeline", key="main", since=since)

        with self.check("a message is shown once, first as a local echo and then as sent"):
            await alice.call("open", key="main", room=room)
            await alice.call("send", key="main", body="hello")
            hello = only(await main(lambda items: is_sent(items, "hello")), "hello")["id"]
        with self.check("scrolling back shows the whole room"):
            while not (await alice.call("paginate", key="main", events=20))["start"]:
                pass
            number = ROOMS - 1 - self.rooms.index(room)
            await main(lambda items: bodies(items) == [f"message {number}", "up", "hello"])
        with self.check("reactions of others and own ones appear in place and are taken back"):
            reaction = await asyncio.to_thread(bob.react, room, hello, "👍")
            await main(lambda items: by_id(items, hello)["reactions"] == {"👍": [bob.user]})
            await alice.call("react", key="main", id=hello, emoji="🎉")
            both = {"👍": [bob.user], "🎉": ["@alice:localhost"]}
            await main(lambda items: by_id(items, hello)["reactions"] == both)
            since = alice.position()
            await asyncio.to_thread(bob.redact, room, reaction)
            await main(lambda items: by_id(items, hello)["reactions"] == {"🎉": ["@alice:localhost"]}, since)
        with self.check("edits of others and own ones appear in place"):
            theirs = await asyncio.to_thread(bob.send, room, "frist")
            await asyncio.to_thread(bob.edit, room, theirs, "first")
            await main(lambda items: text_of(items, theirs) == ("first", True))
            await alice.call("edit", key="main", id=hello, body="hello again")
            await main(lambda items: text_of(items, hello) == ("hello again", True))
        with self.check("redactions of others and own ones appear in place"):
            await asyncio.to_thread(bob.redact, room, theirs)
            await main(lambda items: by_id(items, theirs)["kind"] == "redacted")
            await alice.call("redact", key="main", id=hello)
            await main(lambda items: by_id(items, hello)["kind"] == "redacted")
        with self.check("a new client shows the room with edits, reactions and redactions that it did not see happen"):
            edited = await asyncio.to_thread(bob.send, room, "old")
            await asyncio.to_thread(bob.react, room, edited, "👀")
            await asyncio.to_thread(bob.edit, room, edited, "new")
            tablet = await self.client("tablet", "sdk")
            await tablet.call("login", user="alice", password=PASSWORD)
            await tablet.call("sync")
            await self.shown(lambda rooms: room in ids(rooms), "rooms", tablet)
            await tablet.call("open", key="main", room=room)
            while not (await tablet.call("paginate", key="main", events=50))["start"]:
                pass
            await self.shown(
                lambda items: (
                    text_of(items, edited) == ("new", True)
                    and by_id(items, edited)["reactions"] == {"👀": [bob.user]}
                    and by_id(items, hello)["kind"] == "redacted"
                ),
                "timeline",
                tablet,
            )
            await self.kill(tablet)
        with self.check("the receipt of another user is at the event that they have read"):
            last = await asyncio.to_thread(self.seed.send, room, "read this")
            path = f"rooms/{room}/receipt/m.read/{last}"
            await asyncio.to_thread(bob.request, "POST", path, {})
            await main(lambda items: bob.user in by_id(items, last)["read_by"])

    async def threads(self):
        alice, bob, room = self.alice, self.bob, self.room
        with self.check("a thread is a summary at its root, and no reply is in the main timeline"):
            self.root = await asyncio.to_thread(bob.send, room, "root")
            for number in range(3):
                await asyncio.to_thread(bob.reply_in_thread, room, self.root, f"reply {number}")
            items = await self.shown(
                lambda items: by_id(items, self.root).get("replies") == 3, "timeline", key="main"
            )
            assert not any((item["body"] or "").startswith("reply") for item in items), bodies(items)
        with self.check("a thread that is opened has its root and all replies, and what is sent there arrives"):
            await alice.call("open", key="thread", room=room, root=self.root)
            while not (await alice.call("paginate", key="thread", events=20))["start"]:
                pass
            expected = ["root", "reply 0", "reply 1", "reply 2"]
            await self.shown(lambda items: bodies(items) == expected, "timeline", key="thread")
            await alice.call("send", key="thread", body="mine")
            await self.shown(
                lambda items: bodies(items) == [*expected, "mine"] and is_sent(items, "mine"), "timeline", key="thread"
            )
            await self.shown(lambda items: by_id(items, self.root).get("replies") == 4, "timeline", key="main")

    async def encryption(self):
        alice = self.alice
        dave, carol = await self.client("dave", "sdk"), await self.client("carol", "js")
        self.dave, self.carol = dave, carol
        with self.check("Dave and Carol log in"):
            for name, client in (("dave", dave), ("carol", carol)):
                await asyncio.to_thread(Account, self.server.url, name)
                await client.call("login", user=name, password=PASSWORD)
                await client.call("sync")
        with self.check("an encrypted room is joined from an invitation"):
            invited = ["@dave:localhost", "@carol:localhost"]
            created = await alice.call("create_encrypted", name="Secret", invite=invited)
            room = self.secret = created["room"]
            await self.shown(lambda rooms: state_of(rooms, room) == "Invited", "rooms", dave)
            await dave.call("join", room=room)
            await carol.wait_for("membership", room=room, membership="invite")
            await carol.call("join", room=room)
            await self.shown(lambda rooms: state_of(rooms, room) == "Joined", "rooms", dave)
            # As people do: who has just joined is known to the others before they write.
            for client in (alice, dave):
                await client.call("open", key="secret", room=room)
                for user in invited:
                    await self.shown(
                        lambda items, user=user: any(item["sender"] == user for item in items),
                        "timeline",
                        client,
                        key="secret",
                    )
        with self.check("messages of matrix-sdk-ui are decrypted by matrix-sdk-ui and by matrix-js-sdk"):
            for number, (sender, other) in enumerate(((alice, dave), (dave, alice))):
                body = f"secret {number}"
                await sender.call("send", key="secret", body=body)
                shown = await self.shown(lambda items, b=body: is_sent(items, b), "timeline", other, key="secret")
                assert only(shown, body)["is_encrypted"], shown
                await carol.wait_for("decrypted", room=room, body=body)
        with self.check("a message of matrix-js-sdk is decrypted by matrix-sdk-ui"):
            content = {"msgtype": "m.text", "body": "secret of Carol"}
            await carol.call("send", room=room, type="m.room.message", content=content, txn="carol-1")
            for client in (alice, dave):
                await self.shown(lambda items: is_sent(items, content["body"]), "timeline", client, key="secret")

    async def notifications(self):
        alice = self.alice
        with self.check("a notification is fetched by the id of its event"):
            mention = {"m.mentions": {"user_ids": ["@alice:localhost"]}}
            event = await asyncio.to_thread(lambda: self.bob.send(self.room, "look", **mention))
            got = await alice.call("notification", room=self.room, id=event)
            assert got.get("event", {}).get("content", {}).get("body") == "look", got
            assert (got["sender"], got["has_mention"], got["is_noisy"]) == (self.bob.user, True, True), got
            assert got["room_name"].startswith("Room "), got
        with self.check("a notification of an encrypted message is decrypted"):
            content = {"msgtype": "m.text", "body": "psst"}
            call = self.carol.call("send", room=self.secret, type="m.room.message", content=content, txn="carol-2")
            event = (await call)["id"]
            got = await alice.call("notification", room=self.secret, id=event)
            assert got.get("event", {}).get("content", {}).get("body") == "psst", got
            assert got["room_name"] == "Secret", got
        with self.check("a notification of an invitation is fetched"):
            room = await asyncio.to_thread(self.bob.create_room, "Come in", ["@alice:localhost"])
            path = f"rooms/{room}/members?membership=invite"
            invitation = (await asyncio.to_thread(self.bob.request, "GET", path))["chunk"][0]
            got = await alice.call("notification", room=room, id=invitation["event_id"])
            assert got.get("event", {}).get("content", {}).get("membership") == "invite", got
            assert (got["sender"], got["room_name"]) == (self.bob.user, "Come in"), got

    async def killed_client(self):
        bob, room = self.bob, self.room
        with self.check(f"a process that is killed and was away for {MISSED} messages shows them all, in order"):
            await self.kill(self.alice)
            expected = [f"missed {number}" for number in range(MISSED)]
            for body in expected:
                await asyncio.to_thread(bob.send, room, body)
            alice = self.alice = await self.client("alice", "sdk")
            await alice.call("restore")
            await alice.call("sync")
            await alice.wait_for("sync", state="Running")
            await alice.call("open", key="main", room=room)
            await self.shown(lambda items: bodies(items)[-1:] == expected[-1:], "timeline", key="main")
            while not (await alice.call("paginate", key="main", events=50))["start"]:
                pass
            await self.shown(
                lambda items: [body for body in bodies(items) if body.startswith("missed")] == expected,
                "timeline",
                key="main",
            )
        with self.check("it still decrypts, messages sent meanwhile too"):
            await alice.call("open", key="secret", room=self.secret)
            await self.dave.call("send", key="secret", body="welcome back")
            await self.shown(lambda items: is_sent(items, "welcome back"), "timeline", key="secret")

    async def killed_server(self):
        alice = self.alice
        with self.check("after the server was killed, clients go on where they were"):
            since = alice.position()
            self.server.kill()
            await alice.wait_for("sync", since=since, state="Offline")
            self.server.start()
            await alice.wait_for("sync", since=since, state="Running")
            await asyncio.to_thread(self.bob.send, self.room, "the server is back")
            await self.shown(lambda items: is_sent(items, "the server is back"), "timeline", key="main")
            await alice.call("send", key="main", body="so am I")
            await self.shown(lambda items: is_sent(items, "so am I"), "timeline", key="main")
            await self.dave.call("send", key="secret", body="and me")
            await self.shown(lambda items: is_sent(items, "and me"), "timeline", key="secret")


def last_of(client, what, key, fields):
    """What the client showed last, for the message of a failure."""
    seen = [o for o in client.observations if o["observed"] == what and fields.items() <= o.items()]
    shown = seen[-1][key] if seen else []
    return f"{len(shown)} {[item.get('name') or item.get('body') or item.get('kind') for item in shown[-20:]]}"


def ids(rooms):
    return [room["id"] for room in rooms]


def of_room(rooms, room):
    return next((shown for shown in rooms if shown["id"] == room), {})


def state_of(rooms, room):
    return of_room(rooms, room).get("state")


def counts_of(rooms, room):
    shown = of_room(rooms, room)
    return shown.get("unread"), shown.get("highlights")


def bodies(items):
    return [item["body"] for item in items if item["body"] is not None]


def by_id(items, event):
    """The item of the event; an empty one if it is not shown."""
    return next((item for item in items if item["id"] == event), {"kind": None, "reactions": None, "read_by": []})


def text_of(items, event):
    item = by_id(items, event)
    return item.get("body"), item.get("is_edited")


def only(items, body):
    found = [item for item in items if item["body"] == body]
    assert len(found) == 1, found
    return found[0]


def is_sent(items, body):
    """Whether the message is shown once, and no more as a local echo."""
    found = [item for item in items if item["body"] == body]
    return len(found) == 1 and found[0]["id"] and not found[0]["is_local"]
