"""Pictures and files, which each server fetches from the other when somebody there looks at them."""

import contextlib
import random
import struct
import zlib

from aiohttp import web
from play import refused
from server import free_port


def picture(width, height):
    """A PNG in one color."""

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = (b"\0" + b"\x20\x40\xc0" * width) * height
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


async def pictures(play):
    one, other = play.host, play.guest
    await play.each(as_they_are(play, one, other), small(play, one, other), missing(play, one, other), odd(play, other))


async def as_they_are(play, one, other):
    with play.claim(f"{other} gets a file of {one}'s as it was, with its type and name"):
        content = random.Random(one.name).randbytes(3_000_000)
        uri = await one.upload(content, "application/pdf", "Käse.pdf")
        got = await other.download(uri)
        assert got.content == content, len(got.content)
        assert got.headers["Content-Type"] == "application/pdf", got.headers
        disposition = got.headers["Content-Disposition"]
        assert disposition.lower() == "attachment; filename*=utf-8''k%c3%a4se.pdf", disposition


async def small(play, one, other):
    with play.claim(f"{other} gets a small picture of {one}'s large one"):
        uri = await one.upload(picture(900, 600), "image/png", "large.png")
        got = await other.download(uri, "thumbnail", width=96, height=96, method="crop")
        kind = got.headers["Content-Type"]
        assert kind in ("image/png", "image/jpeg") and len(got.content) < 10_000, (kind, len(got.content))


async def missing(play, one, other):
    with play.claim(f"{other} is told that {one}'s server does not have what it never had"):
        async with refused("M_NOT_FOUND"):
            await other.download(f"mxc://{one.server.name}/nothing")


@contextlib.asynccontextmanager
async def odd_server(trust):
    """A server that has media in other ways than most; its name."""
    port = free_port()
    name = f"localhost:{port}"
    kind = "multipart/mixed; boundary=abc"
    before = b"--abc\r\nContent-Type: application/json\r\n\r\n{}\r\n--abc\r\n"

    async def federation(request):
        match request.match_info["media"]:
            case "elsewhere":
                body = before + f"Location: https://{name}/there\r\n\r\n\r\n--abc--".encode()
            case "cut":
                body = before + b"Content-Type: image/png\r\n\r\nthe beginning"
            case "nonsense":
                return web.Response(body=b"a page", content_type="text/html")
            case _:
                return web.json_response({"errcode": "M_UNRECOGNIZED", "error": "what?"}, status=404)
        return web.Response(body=body, headers={"Content-Type": kind})

    async def there(_request):
        raise web.HTTPFound("/further")

    async def further(_request):
        return web.Response(body=b"from elsewhere", content_type="image/png")

    async def old(request):
        assert request.query["allow_remote"] == "false", request.query
        return web.Response(body=b"the old way", content_type="image/png")

    app = web.Application()
    app.router.add_get("/_matrix/federation/v1/media/download/{media}", federation)
    app.router.add_get(f"/_matrix/media/v3/download/{name}/old", old)
    app.router.add_get("/there", there)
    app.router.add_get("/further", further)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=trust.for_servers()).start()
        yield name
    finally:
        await runner.cleanup()


async def odd(play, person):
    async with odd_server(play.cast.trust) as name:
        if "to fetch media from elsewhere" not in person.server.lacks:
            with play.claim(f"{person} gets what another server says is elsewhere"):
                got = await person.download(f"mxc://{name}/elsewhere")
                assert got.content == b"from elsewhere", got
        with play.claim(f"{person} gets what a server has that knows only the old way"):
            got = await person.download(f"mxc://{name}/old")
            assert got.content == b"the old way", got
        with play.claim(f"{person} does not get what is nonsense"):
            async with refused("M_UNKNOWN", "M_NOT_FOUND"):
                await person.download(f"mxc://{name}/nonsense")
        if "to refuse media that break off" not in person.server.lacks:
            with play.claim(f"{person} does not get what breaks off"):
                async with refused("M_UNKNOWN"):
                    await person.download(f"mxc://{name}/cut")
