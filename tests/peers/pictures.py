"""Pictures and files, which each server fetches from the other when somebody there looks at them."""

import random
import struct
import zlib

from play import refused


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
    await play.each(as_they_are(play, one, other), small(play, one, other), missing(play, one, other))


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
