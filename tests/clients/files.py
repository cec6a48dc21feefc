"""Part of the scenario: images, encrypted attachments, and files that are too large."""

import base64
import random
import struct
import zlib

from client import ClientFailure

LARGE_FILE_BYTES = 5_000_000
# The setting of the server, and the size of a larger file
MAX_UPLOAD = "8M"
TOO_LARGE_BYTES = 12_000_000


def png(width, height):

    def chunk(chunk_type, content):
        checksum = zlib.crc32(chunk_type + content)
        return struct.pack(">I", len(content)) + chunk_type + content + struct.pack(">I", checksum)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = (b"\0" + b"\xc0\x40\x20" * width) * height
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def to_base64(content):
    return base64.b64encode(content).decode()


async def share_files(ctx):
    for one, other in ctx.both_directions():
        await send_image(ctx, one, other)
        await send_encrypted(ctx, one, other)
        await send_too_large(ctx, one)


async def send_image(ctx, me, other):
    content = png(400, 300)
    with ctx.check(f"{me.name} uploads and sends an image"):
        fields = {"name": "Käse.png", "type": "image/png"}
        uploaded = await me.call("upload", data=to_base64(content), encrypt=False, **fields)
        content_of_image = {"msgtype": "m.image", "body": "Käse.png", "url": uploaded["url"]}
        sent = await send(ctx, me, content_of_image)
    with ctx.check(f"{other.name} downloads it unchanged"):
        seen = await other.wait_for("event", room=ctx.room, id=sent["id"])
        download = await other.call("download", url=seen["content"]["url"])
        assert (download["type"], download["data"]) == ("image/png", to_base64(content)), download["type"]
    with ctx.check(f"{other.name} downloads a thumbnail of it"):
        thumbnail = await other.call("thumbnail", url=uploaded["url"], width=96, height=96)
        assert thumbnail["type"] in ("image/png", "image/jpeg"), thumbnail["type"]
        assert 0 < len(base64.b64decode(thumbnail["data"])) < 10_000


async def send_encrypted(ctx, me, other):
    content = random.Random(4711).randbytes(LARGE_FILE_BYTES)
    with ctx.check(f"{me.name} encrypts, uploads and sends a file of {LARGE_FILE_BYTES} bytes"):
        fields = {"name": "secret", "type": "application/octet-stream"}
        uploaded = await me.call("upload", data=to_base64(content), encrypt=True, **fields)
        assert uploaded["file"]["v"] == "v2", uploaded
        # nio rejects an encrypted file in an unencrypted `m.room.message`.
        sent = await send(ctx, me, {"file": uploaded["file"]}, "hearth.file")
    with ctx.check(f"{other.name} downloads and decrypts it"):
        seen = await other.wait_for("event", room=ctx.room, id=sent["id"])
        file = seen["content"]["file"]
        download = await other.call("download", url=file["url"], file=file)
        assert download["data"] == to_base64(content)


async def send_too_large(ctx, me):
    with ctx.check(f"{me.name} gets an error for a file of {TOO_LARGE_BYTES} bytes"):
        fields = {"name": "large", "type": "application/octet-stream", "encrypt": False}
        try:
            await me.call("upload", data=to_base64(bytes(TOO_LARGE_BYTES)), **fields)
        except ClientFailure as failure:
            assert "M_TOO_LARGE" in str(failure), failure
        else:
            raise AssertionError("the upload succeeded")


async def send(ctx, me, content, type="m.room.message"):
    txn = f"file{random.getrandbits(64)}"
    return await me.call("send", room=ctx.room, type=type, content=content, txn=txn)
