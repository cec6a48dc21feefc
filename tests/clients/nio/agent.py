"""Agent for matrix-nio: executes one command per line of standard input, and writes results and
observations as JSON lines to standard output. `../client.py` is the other side and describes the
protocol. `encrypted.py` adds encryption."""

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


# In seconds
RETRY_DELAY = 0.1


def write_message(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def observed(what, /, **fields):
    write_message({"observed": what, **fields})


def event_fields(event):
    """The fields of an event that both agents report."""
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


def unwrap(response):
    """Returns a successful response, and raises an error for any other."""
    if isinstance(response, nio.ErrorResponse):
        raise RuntimeError(f"{type(response).__name__}: {response}")
    return response


async def retry_while_unavailable(call):
    """Repeats `call` while the connection is closed in the middle of a response, or the status is 503.
    nio itself repeats requests without a response."""
    while True:
        try:
            response = await call()
        except aiohttp.ClientPayloadError as error:
            observed("retried", reason=str(error))
            continue
        if not is_unavailable(response):
            return unwrap(response)
        observed("retried", reason=str(response))
        await asyncio.sleep(RETRY_DELAY)


def is_unavailable(response):
    """Status 503: the server is starting or stopping."""
    return isinstance(response, nio.ErrorResponse) and response.transport_response.status == 503


class Client(nio.AsyncClient):
    """nio with syncs that can be paused."""

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
        """Registers as nio does: with the dummy stage at once, without requesting the flows."""
        client = self.new_client(user)
        try:
            response = unwrap(await client.register(user, password))
            self.client = client
            unwrap(await client.logout())
            return {"user_id": response.user_id}
        finally:
            await client.close()

    async def login(self, user, password):
        self.client = self.new_client(user)
        flows = unwrap(await self.client.login_info()).flows
        if "m.login.password" not in flows:
            raise RuntimeError(f"no login by password in {flows}")
        unwrap(await self.client.login(password, device_name="matrix-nio"))
        whoami = unwrap(await self.client.whoami())
        return {"user_id": whoami.user_id, "device_id": whoami.device_id}

    async def sync(self):
        """Starts syncing; returns after the first sync."""
        first = asyncio.get_running_loop().create_future()

        async def synced(response):
            self.report_sync(response)
            if not first.done():
                first.set_result(None)

        async def failed(response):
            if is_unavailable(response):
                # nio repeats the sync at once.
                await asyncio.sleep(RETRY_DELAY)
            else:
                observed("failure", what=f"sync: {response}")

        self.client.add_response_callback(synced, nio.SyncResponse)
        self.client.add_response_callback(failed, nio.SyncError)
        self.syncing = asyncio.create_task(self.sync_forever_with_retries())
        await first

    async def sync_forever_with_retries(self):
        while True:
            try:
                await self.client.sync_forever(timeout=30_000, sync_filter=self.sync_filter)
            except aiohttp.ClientPayloadError as error:
                observed("retried", reason=f"sync: {error}")
            except Exception:
                observed("failure", what=traceback.format_exc())
                raise

    def report_sync(self, response):
        for room, info in response.rooms.invite.items():
            name = self.client.invited_rooms[room].display_name
            observed("membership", room=room, membership="invite", name=name)
        for room, info in response.rooms.join.items():
            self.report_joined(room, info)
        for room, info in response.rooms.leave.items():
            self.report_events(room, info)
            observed("membership", room=room, membership="leave")

    def report_joined(self, room, info):
        held = self.client.rooms[room]
        if info.timeline.limited:
            observed("gap", room=room, token=info.timeline.prev_batch)
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
                        observed("receipt", room=room, user=receipt.user_id, id=receipt.event_id)

        if info.unread_notifications and info.unread_notifications.notification_count is not None:
            observed("unread", room=room, unread=held.unread_notifications)

    def report_typing(self, room, users):
        before = self.typing_users.get(room, set())
        self.typing_users[room] = users
        for user in users ^ before:
            observed("typing", room=room, user=user, on=user in users)

    def report_member(self, room, held, event):
        user = event.state_key
        known = held.users.get(user)
        observed(
            "member",
            room=room,
            user=user,
            membership=event.membership,
            name=known and known.display_name,
            avatar=known and known.avatar_url,
        )
        if user == self.client.user_id:
            observed("membership", room=room, membership=event.membership, name=held.display_name)

    def report_events(self, room, info):
        for event in info.timeline.events:
            if isinstance(event, (nio.BadEvent, nio.UnknownBadEvent)):
                observed("failure", what=f"nio finds this event malformed: {event.source}")
                continue
            observed("event", room=room, **event_fields(event))
            self.report_relation(room, event)

    def report_relation(self, room, event):
        """nio has types for these events, but does not aggregate them."""
        if isinstance(event, nio.RoomMessageText):
            relation = event.source["content"].get("m.relates_to", {})
            if relation.get("rel_type") == "m.replace":
                body = event.source["content"]["m.new_content"]["body"]
                observed("edited", room=room, id=relation["event_id"], body=body)
        elif isinstance(event, nio.ReactionEvent):
            users = self.reactions.setdefault((event.reacts_to, event.key), [])
            users.append(event.sender)
            observed("reacted", room=room, id=event.reacts_to, key=event.key, users=users)
        elif isinstance(event, nio.RedactionEvent):
            observed("redacted", room=room, id=event.redacts)

    async def create_room(self, name, topic, invite):
        response = await self.client.room_create(
            preset=nio.RoomPreset.private_chat, name=name, topic=topic, invite=invite
        )
        return {"room": unwrap(response).room_id}

    async def invite(self, room, user):
        unwrap(await self.client.room_invite(room, user))

    async def join(self, room):
        unwrap(await self.client.join(room))

    async def leave(self, room):
        unwrap(await self.client.room_leave(room))

    async def send(self, room, type, content, txn):
        response = await retry_while_unavailable(lambda: self.client.room_send(room, type, content, txn))
        return {"id": response.event_id}

    async def redact(self, room, target, txn):
        response = await retry_while_unavailable(lambda: self.client.room_redact(room, target, tx_id=txn))
        return {"id": response.event_id}

    async def typing(self, room, on):
        unwrap(await self.client.room_typing(room, on, 30_000))

    async def read(self, room, id):
        unwrap(await self.client.room_read_markers(room, id, id))

    async def profile(self, name, avatar):
        unwrap(await self.client.set_displayname(name))
        unwrap(await self.client.set_avatar(avatar))

    async def upload(self, data, name, type, encrypt):
        data, file = base64.b64decode(data), None
        if encrypt:
            data, file = encrypt_attachment(data)
        size = len(data)
        response, _ = await self.client.upload(io.BytesIO(data), type, name, filesize=size)
        url = unwrap(response).content_uri
        return {"url": url, "file": file and {**file, "url": url}}

    async def download(self, url, file=None):
        response = unwrap(await self.client.download(url))
        data = response.body
        if file:
            data = decrypt_attachment(
                data, file["key"]["k"], file["hashes"]["sha256"], file["iv"]
            )
        return {"type": response.content_type, "data": base64.b64encode(data).decode()}

    async def thumbnail(self, url, width, height):
        server, media = url.removeprefix("mxc://").split("/")
        response = unwrap(await self.client.thumbnail(server, media, width, height))
        return {"type": response.content_type, "data": base64.b64encode(response.body).decode()}

    async def pause(self):
        """Sends no further sync until `resume`."""
        self.client.may_sync.clear()

    async def resume(self):
        self.client.may_sync.set()

    async def fill_gap(self, room, token, until):
        """The events missing in a gap: from its token back to the event `until`, oldest first."""
        events = []
        while token:
            response = unwrap(await self.client.room_messages(room, token, limit=50))
            for event in response.chunk:
                if event.event_id == until:
                    return events[::-1]
                events.append(event_fields(event))
            token = response.end
        raise RuntimeError(f"{until} is not before the gap")

    async def history(self, room, page):
        """All events of the room by /messages, newest first."""
        events, start = [], None
        while True:
            response = await self.client.room_messages(room, start, limit=page)
            events += [event_fields(event) for event in unwrap(response).chunk]
            start = response.end
            if not start or not response.chunk:
                return events

    async def scroll(self, room):
        """Like `history`, as nio has no timeline to scroll."""
        return await self.history(room, 50)

    async def retry_now(self):
        """nio retries by itself, at the latest after `max_timeout_retry_wait_time`."""

    async def logout(self):
        self.syncing.cancel()
        unwrap(await self.client.logout())
        await self.client.close()

    async def execute(self, line):
        message = json.loads(line)
        number, command = message.pop("number"), message.pop("command")
        try:
            write_message({"number": number, "result": await getattr(self, command)(**message)})
        except Exception:
            write_message({"number": number, "error": traceback.format_exc()})


async def main(agent_class):
    agent = agent_class(sys.argv[1], int(sys.argv[2]))
    lines = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    running = set()
    while line := await lines.readline():
        task = asyncio.create_task(agent.execute(line))
        running.add(task)
        task.add_done_callback(running.discard)


def run(agent_class):
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    asyncio.run(main(agent_class))


if __name__ == "__main__":
    run(Agent)
