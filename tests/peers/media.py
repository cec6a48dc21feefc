"""Remote media: downloads and thumbnails over federation."""

import contextlib
import random
import struct
import zlib

from aiohttp import web
from context import expect_error
from server import free_port


def png(width, height):

    def chunk(content_type, content):
        checksum = zlib.crc32(content_type + content)
        return struct.pack(">I", len(content)) + content_type + content + struct.pack(">I", checksum)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = (b"\0" + b"\x20\x40\xc0" * width) * height
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


async def media(ctx):
    one, other = ctx.host, ctx.guest
    await ctx.run_all(
        download(ctx, one, other),
        thumbnail(ctx, one, other),
        missing(ctx, one, other),
        unusual_responses(ctx, other),
    )


async def download(ctx, one, other):
    with ctx.check(f"{other} downloads {one}'s file with its type and name"):
        content = random.Random(one.name).randbytes(3_000_000)
        uri = await one.upload(content, "application/pdf", "Käse.pdf")
        response = await other.download(uri)
        assert response.content == content, len(response.content)
        assert response.headers["Content-Type"] == "application/pdf", response.headers
        disposition = response.headers["Content-Disposition"]
        assert disposition.lower() == "attachment; filename*=utf-8''k%c3%a4se.pdf", disposition


async def thumbnail(ctx, one, other):
    with ctx.check(f"{other} downloads a thumbnail of {one}'s image"):
        uri = await one.upload(png(900, 600), "image/png", "large.png")
        response = await other.download(uri, "thumbnail", width=96, height=96, method="crop")
        content_type = response.headers["Content-Type"]
        assert content_type in ("image/png", "image/jpeg") and len(response.content) < 10_000, (content_type, len(response.content))


async def missing(ctx, one, other):
    with ctx.check(f"unknown media of {one}'s server are not found"):
        async with expect_error("M_NOT_FOUND"):
            await other.download(f"mxc://{one.server.name}/nothing")


@contextlib.asynccontextmanager
async def unusual_server(certificates):
    """A server that serves media by redirects, by the deprecated endpoint or incorrectly; yields its name."""
    port = free_port()
    name = f"localhost:{port}"
    content_type = "multipart/mixed; boundary=abc"
    before = b"--abc\r\nContent-Type: application/json\r\n\r\n{}\r\n--abc\r\n"

    async def federation(request):
        match request.match_info["media"]:
            case "redirect":
                body = before + f"Location: https://{name}/first\r\n\r\n\r\n--abc--".encode()
            case "truncated":
                body = before + b"Content-Type: image/png\r\n\r\nthe first part"
            case "html":
                return web.Response(body=b"a page", content_type="text/html")
            case _:
                return web.json_response({"errcode": "M_UNRECOGNIZED", "error": "unrecognized"}, status=404)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def first_redirect(_request):
        raise web.HTTPFound("/second")

    async def redirect_target(_request):
        return web.Response(body=b"redirected", content_type="image/png")

    async def deprecated(request):
        assert request.query["allow_remote"] == "false", request.query
        return web.Response(body=b"deprecated endpoint", content_type="image/png")

    app = web.Application()
    app.router.add_get("/_matrix/federation/v1/media/download/{media}", federation)
    app.router.add_get(f"/_matrix/media/v3/download/{name}/deprecated", deprecated)
    app.router.add_get("/first", first_redirect)
    app.router.add_get("/second", redirect_target)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=certificates.server_context()).start()
        yield name
    finally:
        await runner.cleanup()


async def unusual_responses(ctx, user):
    async with unusual_server(ctx.environment.certificates) as name:
        if "media redirects" not in user.server.unsupported:
            with ctx.check(f"{user} downloads media that a server redirects to"):
                download = await user.download(f"mxc://{name}/redirect")
                assert download.content == b"redirected", download
        with ctx.check(f"{user} downloads media of a server with the deprecated endpoint only"):
            download = await user.download(f"mxc://{name}/deprecated")
            assert download.content == b"deprecated endpoint", download
        with ctx.check(f"{user} gets an error for a response that is not multipart"):
            async with expect_error("M_UNKNOWN", "M_NOT_FOUND"):
                await user.download(f"mxc://{name}/html")
        if "rejection of truncated media" not in user.server.unsupported:
            with ctx.check(f"{user} gets an error for truncated media"):
                async with expect_error("M_UNKNOWN"):
                    await user.download(f"mxc://{name}/truncated")
