"""matrix-nio under test: carries out one command per line of standard input and reports, one JSON
object per line of standard output, what the library answered and what it saw. `../client.py` is the
other end and describes the protocol. `encrypted.py` adds encryption to it."""

import asyncio
import base64
import io
import json
import logging
import sys
import traceback

import aiohttp
import nio
from nio.crypto import decrypt_attachment, encrypt_attachment


# How long to wait, in seconds, before asking again a server that is not ready.
PAUSE = 0.1


def say(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def saw(what, /, **fields):
    say({"saw": what, **fields})


def plain(event):
    """An event as both clients report it."""
    source = event.source
    return {
        "id": source["event_id"],
        "type": source["type"],
        "sender": source["sender"],
        "state_key": source.get("state_key"),
        "content": source["content"],
        "redacts": source.get("redacts", source["content"].get("redacts")),
        "txn": source.get("unsigned", {}).get("transaction_id"),
    }


def good(response):
    """The response, unless it reports an error, which is then raised."""
    if isinstance(response, nio.ErrorResponse):
        raise RuntimeError(f"{type(response).__name__}: {response}")
    return response


async def patiently(call):
    """Repeats `call` while the server breaks off in the middle of its answer, or says that it is not
    ready. nio itself repeats requests that got no answer at all."""
    while True:
        try:
            response = await call()
        except aiohttp.ClientPayloadError as error:
            saw("unsent", reason=str(error))
            continue
        if not is_unready(response):
            return good(response)
        saw("unsent", reason=str(response))
        await asyncio.sleep(PAUSE)


def is_unready(response):
    """Whether the server answers that it cannot answer now, as it does while it starts."""
    return isinstance(response, nio.ErrorResponse) and response.transport_response.status == 503


class Client(nio.AsyncClient):
    """nio, except that syncs can be held up."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.may_sync = asyncio.Event()
        self.may_sync.set()

    async def sync(self, *arguments, **options):
        await self.may_sync.wait()
        return await super().sync(*arguments, **options)


class Agent:
    def __init__(self, base_url, sync_limit):
        self.base_url = base_url
        self.sync_filter = {
            "room": {"timeline": {"limit": sync_limit}, "state": {"lazy_load_members": True}}
        }
        self.client = None
        self.syncing = None
        self.reactions = {}
        self.typing_users = {}

    def new_client(self, user):
        config = nio.AsyncClientConfig(
            encryption_enabled=False, request_timeout=60, max_timeout_retry_wait_time=1
        )
        return Client(self.base_url, user, config=config)

    async def register(self, user, password):
        """Registers as nio does it: the dummy stage at once, without asking for the flows."""
        client = self.new_client(user)
        try:
            answer = good(await client.register(user, password))
            self.client = client
            good(await client.logout())
            return {"user_id": answer.user_id}
        finally:
            await client.close()

    async def login(self, user, password):
        self.client = self.new_client(user)
        flows = good(await self.client.login_info()).flows
        if "m.login.password" not in flows:
            raise RuntimeError(f"no login by password in {flows}")
        good(await self.client.login(password, device_name="matrix-nio"))
        whoami = good(await self.client.whoami())
        return {"user_id": whoami.user_id, "device_id": whoami.device_id}

    async def sync(self):
        """Syncs from now on; answered when the first sync is in."""
        first = asyncio.get_running_loop().create_future()

        async def synced(response):
            self.report(response)
            if not first.done():
                first.set_result(None)

        async def failed(response):
            if is_unready(response):
                # nio would ask again at once.
                await asyncio.sleep(PAUSE)
            else:
                saw("trouble", what=f"sync: {response}")

        self.client.add_response_callback(synced, nio.SyncResponse)
        self.client.add_response_callback(failed, nio.SyncError)
        self.syncing = asyncio.create_task(self.sync_on())
        await first

    async def sync_on(self):
        while True:
            try:
                await self.client.sync_forever(timeout=30_000, sync_filter=self.sync_filter)
            except aiohttp.ClientPayloadError as error:
                saw("unsent", reason=f"sync: {error}")
            except Exception:
                saw("trouble", what=traceback.format_exc())
                raise

    def report(self, response):
        for room, info in response.rooms.invite.items():
            name = self.client.invited_rooms[room].display_name
            saw("membership", room=room, membership="invite", name=name)
        for room, info in response.rooms.join.items():
            self.report_joined(room, info)
        for room, info in response.rooms.leave.items():
            self.report_events(room, info)
            saw("membership", room=room, membership="leave")

    def report_joined(self, room, info):
        held = self.client.rooms[room]
        if info.timeline.limited:
            saw("gap", room=room, token=info.timeline.prev_batch)
        self.report_events(room, info)
        for event in [*info.state, *info.timeline.events]:
            if isinstance(event, nio.RoomMemberEvent):
                self.report_member(room, held, event)
        for event in info.ephemeral:
            if isinstance(event, nio.TypingNoticeEvent):
                self.report_typing(room, set(held.typing_users))
            elif isinstance(event, nio.ReceiptEvent):
                for receipt in event.receipts:
                    if receipt.receipt_type == "m.read":
                        saw("receipt", room=room, user=receipt.user_id, id=receipt.event_id)

        if info.unread_notifications and info.unread_notifications.notification_count is not None:
            saw("unread", room=room, unread=held.unread_notifications)

    def report_typing(self, room, users):
        before = self.typing_users.get(room, set())
        self.typing_users[room] = users
        for user in users ^ before:
            saw("typing", room=room, user=user, on=user in users)

    def report_member(self, room, held, event):
        user = event.state_key
        known = held.users.get(user)
        saw(
            "member",
            room=room,
            user=user,
            membership=event.membership,
            name=known and known.display_name,
            avatar=known and known.avatar_url,
        )
        if user == self.client.user_id:
            saw("membership", room=room, membership=event.membership, name=held.display_name)

    def report_events(self, room, info):
        for event in info.timeline.events:
            if isinstance(event, (nio.BadEvent, nio.UnknownBadEvent)):
                saw("trouble", what=f"nio finds this event malformed: {event.source}")
                continue
            saw("event", room=room, **plain(event))
            self.report_relation(room, event)

    def report_relation(self, room, event):
        """nio has types for these events, but keeps no account of what they refer to."""
        if isinstance(event, nio.RoomMessageText):
            relation = event.source["content"].get("m.relates_to", {})
            if relation.get("rel_type") == "m.replace":
                body = event.source["content"]["m.new_content"]["body"]
                saw("edited", room=room, id=relation["event_id"], body=body)
        elif isinstance(event, nio.ReactionEvent):
            users = self.reactions.setdefault((event.reacts_to, event.key), [])
            users.append(event.sender)
            saw("reacted", room=room, id=event.reacts_to, key=event.key, users=users)
        elif isinstance(event, nio.RedactionEvent):
            saw("redacted", room=room, id=event.redacts)

    async def create_room(self, name, topic, invite):
        answer = await self.client.room_create(
            preset=nio.RoomPreset.private_chat, name=name, topic=topic, invite=invite
        )
        return {"room": good(answer).room_id}

    async def invite(self, room, user):
        good(await self.client.room_invite(room, user))

    async def join(self, room):
        good(await self.client.join(room))

    async def leave(self, room):
        good(await self.client.room_leave(room))

    async def send(self, room, type, content, txn):
        answer = await patiently(lambda: self.client.room_send(room, type, content, txn))
        return {"id": answer.event_id}

    async def redact(self, room, target, txn):
        answer = await patiently(lambda: self.client.room_redact(room, target, tx_id=txn))
        return {"id": answer.event_id}

    async def typing(self, room, on):
        good(await self.client.room_typing(room, on, 30_000))

    async def read(self, room, id):
        good(await self.client.room_read_markers(room, id, id))

    async def profile(self, name, avatar):
        good(await self.client.set_displayname(name))
        good(await self.client.set_avatar(avatar))

    async def upload(self, data, name, type, encrypt):
        data, file = base64.b64decode(data), None
        if encrypt:
            data, file = encrypt_attachment(data)
        size = len(data)
        answer, _ = await self.client.upload(io.BytesIO(data), type, name, filesize=size)
        url = good(answer).content_uri
        return {"url": url, "file": file and {**file, "url": url}}

    async def download(self, url, file=None):
        answer = good(await self.client.download(url))
        data = answer.body
        if file:
            data = decrypt_attachment(
                data, file["key"]["k"], file["hashes"]["sha256"], file["iv"]
            )
        return {"type": answer.content_type, "data": base64.b64encode(data).decode()}

    async def thumbnail(self, url, width, height):
        server, media = url.removeprefix("mxc://").split("/")
        answer = good(await self.client.thumbnail(server, media, width, height))
        return {"type": answer.content_type, "data": base64.b64encode(answer.body).decode()}

    async def pause(self):
        """Lets no further sync out until `resume`."""
        self.client.may_sync.clear()

    async def resume(self):
        self.client.may_sync.set()

    async def fill(self, room, token, until):
        """What a gap in the timeline hides: from its token back to the event `until`, oldest first."""
        events = []
        while token:
            answer = good(await self.client.room_messages(room, token, limit=50))
            for event in answer.chunk:
                if event.event_id == until:
                    return events[::-1]
                events.append(plain(event))
            token = answer.end
        raise RuntimeError(f"{until} is not before the gap")

    async def history(self, room, page):
        """The whole room, newest first, as pages of /messages."""
        events, start = [], None
        while True:
            answer = await self.client.room_messages(room, start, limit=page)
            events += [plain(event) for event in good(answer).chunk]
            start = answer.end
            if not start or not answer.chunk:
                return events

    async def scroll(self, room):
        """The same; nio keeps no timeline that one could scroll."""
        return await self.history(room, 50)

    async def network_back(self):
        """nio tries again by itself, at the latest after `max_timeout_retry_wait_time`."""

    async def logout(self):
        self.syncing.cancel()
        good(await self.client.logout())
        await self.client.close()

    async def carry_out(self, line):
        message = json.loads(line)
        number, command = message.pop("number"), message.pop("command")
        try:
            say({"number": number, "answer": await getattr(self, command)(**message)})
        except Exception:
            say({"number": number, "error": traceback.format_exc()})


async def main(kind):
    agent = kind(sys.argv[1], int(sys.argv[2]))
    lines = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    running = set()
    while line := await lines.readline():
        task = asyncio.create_task(agent.carry_out(line))
        running.add(task)
        task.add_done_callback(running.discard)


def run(kind):
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    asyncio.run(main(kind))


if __name__ == "__main__":
    run(Agent)
