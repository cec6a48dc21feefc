"""What apps with other SDKs do: each app is a process that prints a JSON line per step, `{"step": what it
does, "error": null or text}`.

The picture that they show is of another user. Some apps get an answer to `/versions` with a part of what the
server announces, so that they ask for the picture as an older app does."""

import asyncio
import contextlib
import json
import pathlib

import aiohttp
from aiohttp import web
from checks import CheckFailed
from files import png
from server import Hearth

HERE = pathlib.Path(__file__).parent
PYTHON = [HERE / ".venv/bin/python"]
PASSWORD = "correct horse battery staple"
TIMEOUT = 60  # seconds
V1_1 = ["v1.1"]

ALL = None  # everything that the server announces
# The command, whether everybody gets media by the old paths, and the versions and flags that the app sees
APPS = {
    "matrix-nio": (PYTHON + [HERE / "nio/app.py"], "none", ALL),
    "mautrix": (PYTHON + [HERE / "mautrix/app.py"], "none", ALL),
    "mautrix that knows only v1.1": (PYTHON + [HERE / "mautrix/app.py"], "all", (V1_1, [])),
    "matrix-bot-sdk": (["node", HERE / "js/bot.mjs"], "none", ALL),
    "hydrogen": (["node", HERE / "js/hydrogen.mjs"], "none", ALL),
    "matrix-js-sdk": (["node", HERE / "js/element.mjs"], "none", ALL),
    "a phone with a push gateway": (["node", HERE / "js/push.mjs"], "none", ALL),
    "matrix-js-sdk that knows only v1.11": (["node", HERE / "js/element.mjs"], "none", (["v1.11"], [])),
    "matrix-js-sdk that knows only v1.1 and the flag of media": (
        ["node", HERE / "js/element.mjs"],
        "none",
        (V1_1, ["org.matrix.msc3916.stable"]),
    ),
    "matrix-js-sdk that knows only v1.1": (["node", HERE / "js/element.mjs"], "all", (V1_1, [])),
}


async def apps(binary, checks, directory):
    """Runs all apps at once, on a server for each setting of the old paths."""
    servers = {}
    try:
        for setting in ("none", "all"):
            with checks.check(f'the server starts with unauthenticated_media = "{setting}"'):
                place = directory / setting
                place.mkdir()
                gateways = ["127.0.0.1"]
                server = Hearth(binary, "localhost", place, unauthenticated_media=setting, push_gateways=gateways)
                await asyncio.to_thread(server.start)
                servers[setting] = (server, await paint(server.url))
        runs = (
            run(checks, name, f"app{number}", command, *servers[setting], seen)
            for number, (name, (command, setting, seen)) in enumerate(APPS.items())
        )
        await asyncio.gather(*runs)
    finally:
        for server, _ in servers.values():
            server.clean_up()


async def paint(url):
    """Registers a user who uploads a picture; returns its URI."""
    body = {"username": "painter", "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
    async with aiohttp.ClientSession(url) as session:
        async with session.post("/_matrix/client/v3/register", json=body) as response:
            token = (await response.json())["access_token"]
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "image/png"}
        async with session.post("/_matrix/media/v3/upload", data=png(64, 64), headers=headers) as response:
            return (await response.json())["content_uri"]


async def run(checks, name, user, command, server, picture, seen):
    async with contextlib.AsyncExitStack() as stack:
        url = server.url
        if seen is not ALL:
            url = await stack.enter_async_context(restricted(url, *seen))
        log = stack.enter_context((server.directory / f"{user}.log").open("wb"))
        process = await asyncio.create_subprocess_exec(
            *command, url, user, picture, stdout=asyncio.subprocess.PIPE, stderr=log
        )
        stack.callback(lambda: process.returncode is None and process.kill())
        steps = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TIMEOUT):
                async for line in process.stdout:
                    steps += 1
                    report(checks, name, **json.loads(line))
        with contextlib.suppress(CheckFailed), checks.check(f"{name} ends"):
            assert steps and await asyncio.wait_for(process.wait(), 5) == 0, (steps, process.returncode)


def report(checks, name, step, error):
    with contextlib.suppress(CheckFailed), checks.check(f"{name} {step}"):
        assert error is None, error


@contextlib.asynccontextmanager
async def restricted(url, versions, flags):
    """A proxy whose `/versions` has only these versions and flags, of those that the server announces."""

    async def respond(request):
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        body = await request.read()
        sent = session.request(request.method, request.raw_path, data=body, headers=headers)
        async with sent as response:
            content = await response.read()
            if request.path == "/_matrix/client/versions":
                return web.json_response(restrict(json.loads(content), versions, flags))
            kept = {"Content-Type": response.headers.get("Content-Type", "application/octet-stream")}
            return web.Response(body=content, status=response.status, headers=kept)

    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{path:.*}", respond)
    runner = web.AppRunner(app)
    await runner.setup()
    async with aiohttp.ClientSession(url, auto_decompress=True) as session:
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            yield f"http://{host}:{port}"
        finally:
            await runner.cleanup()


def restrict(announced, versions, flags):
    announced["versions"] = [version for version in announced["versions"] if version in versions]
    known = announced["unstable_features"].items()
    announced["unstable_features"] = {flag: value for flag, value in known if flag in flags}
    return announced
