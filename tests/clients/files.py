"""The scene of two people who send each other files, as they are and encrypted."""

import base64
import random
import struct
import zlib

from client import Trouble

# Of the larger file, in bytes.
LARGE = 5_000_000
# What the server takes at the most, as its settings have it, and the length of a file that is larger.
MOST = "8M"
TOO_LARGE = 12_000_000


def picture(width, height):
    """A PNG in one color."""

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = (b"\0" + b"\xc0\x40\x20" * width) * height
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def text(content):
    return base64.b64encode(content).decode()


async def share(stage):
    for one, other in stage.both_ways():
        await send_picture(stage, one, other)
        await send_encrypted(stage, one, other)
        await send_too_large(stage, one)


async def send_picture(stage, me, you):
    content = picture(400, 300)
    with stage.claim(f"{me.name} uploads a picture and sends it"):
        fields = {"name": "Käse.png", "type": "image/png"}
        uploaded = await me.call("upload", data=text(content), encrypt=False, **fields)
        shown = {"msgtype": "m.image", "body": "Käse.png", "url": uploaded["url"]}
        sent = await send(stage, me, shown)
    with stage.claim(f"{you.name} sees it, and downloads it as it was"):
        seen = await you.sees("event", room=stage.room, id=sent["id"])
        got = await you.call("download", url=seen["content"]["url"])
        assert (got["type"], got["data"]) == ("image/png", text(content)), got["type"]
    with stage.claim(f"{you.name} gets a small picture of it"):
        small = await you.call("thumbnail", url=uploaded["url"], width=96, height=96)
        assert small["type"] in ("image/png", "image/jpeg"), small["type"]
        assert 0 < len(base64.b64decode(small["data"])) < 10_000


async def send_encrypted(stage, me, you):
    content = random.Random(4711).randbytes(LARGE)
    with stage.claim(f"{me.name} encrypts a file of {LARGE} bytes, uploads it and sends it"):
        fields = {"name": "secret", "type": "application/octet-stream"}
        uploaded = await me.call("upload", data=text(content), encrypt=True, **fields)
        assert uploaded["file"]["v"] == "v2", uploaded
        # In a message that is itself not encrypted, nio takes such a file for an error.
        sent = await send(stage, me, {"file": uploaded["file"]}, "hearth.file")
    with stage.claim(f"{you.name} downloads and decrypts it"):
        seen = await you.sees("event", room=stage.room, id=sent["id"])
        file = seen["content"]["file"]
        got = await you.call("download", url=file["url"], file=file)
        assert got["data"] == text(content)


async def send_too_large(stage, me):
    with stage.claim(f"{me.name} is told that a file of {TOO_LARGE} bytes is too large"):
        fields = {"name": "large", "type": "application/octet-stream", "encrypt": False}
        try:
            await me.call("upload", data=text(bytes(TOO_LARGE)), **fields)
        except Trouble as trouble:
            assert "M_TOO_LARGE" in str(trouble), trouble
        else:
            raise AssertionError("it was taken")


async def send(stage, me, content, type="m.room.message"):
    txn = f"file{random.getrandbits(64)}"
    return await me.call("send", room=stage.room, type=type, content=content, txn=txn)
