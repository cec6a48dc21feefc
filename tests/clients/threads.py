"""Part of the scenario: threads. matrix-js-sdk loads the events of a thread from `/relations`.

The replies are sent without an SDK: if the event of a reply comes before the response to its request,
matrix-js-sdk 43 takes the sending for failed."""

import asyncio
import json
import urllib.parse
import urllib.request

from chat import PASSWORD, send
from client import Client


async def threads(ctx):
    bob = await asyncio.to_thread(log_in, ctx.server.url, "bob")
    for me, other in ctx.both_directions():
        with ctx.check(f"{me.name} gets a reply to a message of {other.name} in a thread"):
            root = await send(other, ctx.room, f"{other.name} starts a thread")
            await me.wait_for("event", room=ctx.room, id=root)
            reply = await asyncio.to_thread(reply_to, ctx.server.url, bob, ctx.room, root, 1)
            await me.wait_for("event", room=ctx.room, id=reply)


async def thread_of_a_new_device(ctx, directory):
    """The timeline of the first sync does not have the whole thread."""
    with ctx.check("a new device with matrix-js-sdk loads an old thread whole"):
        url = ctx.server.url
        bob = await asyncio.to_thread(log_in, url, "bob")
        root = await send(ctx.alice, ctx.room, "Alice starts an old thread")
        replies = [await asyncio.to_thread(reply_to, url, bob, ctx.room, root, number) for number in range(30)]
        phone = Client("Phone", "js", directory)
        await phone.start(url)
        try:
            await phone.call("login", user="alice", password=PASSWORD)
            await phone.call("sync")
            found = await phone.call("load_thread", room=ctx.room, root=root)
            assert found == [root, *replies], found
        finally:
            await phone.stop()


def log_in(url, user):
    """The access token of a new session."""
    identifier = {"type": "m.id.user", "user": user}
    body = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
    return request("POST", f"{url}/_matrix/client/v3/login", None, body)["access_token"]


def reply_to(url, token, room, root, number):
    relation = {"rel_type": "m.thread", "event_id": root}
    content = {"msgtype": "m.text", "body": f"reply {number}", "m.relates_to": relation}
    path = "/".join(urllib.parse.quote(part, "") for part in [room, "send", "m.room.message", f"{root} {number}"])
    return request("PUT", f"{url}/_matrix/client/v3/rooms/{path}", token, content)["event_id"]


def request(method, url, token, body):
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    message = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(message, timeout=30) as response:
        return json.load(response)
