"""Part of the scenario: threads. The server does not serve `/relations` and `/threads` yet, and therefore
does not announce v1.4."""

from chat import PASSWORD, send
from client import Client, ClientFailure


async def threads(ctx):
    for me, other in ctx.both_directions():
        with ctx.check(f"{me.name} sees {other.name}'s reply in a thread as a message of the timeline"):
            root = await send(me, ctx.room, f"{me.name} starts a thread")
            await other.wait_for("event", room=ctx.room, id=root)
            reply = await reply_to(other, ctx.room, root)
            await me.wait_for("event", room=ctx.room, id=reply)


async def reply_to(me, room, root):
    relation = {"rel_type": "m.thread", "event_id": root}
    return await send(me, room, f"{me.name} replies to {root}", **{"m.relates_to": relation})


async def threads_with_v1_4(ctx, directory):
    """When this fails because `/relations` is served, announce v1.4."""
    with ctx.check("with v1.4 in /versions, matrix-js-sdk requests a thread from /relations and shows no event of it"):
        carol = Client("Carol", "js", directory)
        await carol.start(ctx.server.url)
        try:
            await carol.call("register", user="carol", password=PASSWORD)
            await carol.call("login", user="carol", password=PASSWORD, versions=["v1.1", "v1.4"])
            await carol.call("sync")
            room = (await carol.call("create_room", name="Threads", topic="", invite=[ctx.bob.user]))["room"]
            await carol.wait_for("membership", room=room, membership="join")
            await ctx.bob.call("join", room=room)
            root = await send(carol, room, "Carol starts a thread")
            reply = await reply_to(ctx.bob, room, root)
            await carol.wait_for("unrecognized", path=lambda path: "/relations/" in path)
            assert reply not in await carol.call("thread", room=room, root=root)
        except ClientFailure as failure:
            # The SDK does not catch the error everywhere.
            assert "/relations/" in str(failure), failure
        finally:
            await carol.stop()
