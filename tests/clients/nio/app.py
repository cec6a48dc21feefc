"""What a small client does with matrix-nio: `app.py URL USER PICTURE`. Prints a JSON line per step; see `../apps.py`."""

import asyncio
import json
import sys

import nio

URL, USER, PICTURE = sys.argv[1:]
PASSWORD = "correct horse battery staple"


def unwrap(response):
    assert not isinstance(response, nio.ErrorResponse), response
    return response


class App:
    def __init__(self):
        self.client = nio.AsyncClient(URL, USER)
        self.room = None

    async def registers_and_is_called_by_its_localpart(self):
        unwrap(await self.client.register(USER, PASSWORD))
        assert unwrap(await self.client.get_displayname()).displayname == USER
        self.room = unwrap(await self.client.room_create(name="notes")).room_id
        members = unwrap(await self.client.joined_members(self.room)).members
        assert [member.display_name for member in members] == [USER], members

    async def shows_a_picture(self):
        picture = unwrap(await self.client.download(PICTURE))
        assert picture.content_type == "image/png" and picture.body.startswith(b"\x89PNG"), picture

    async def pages_back_until_there_is_no_more(self):
        content = {"msgtype": "m.text", "body": "the last"}
        unwrap(await self.client.room_send(self.room, "m.room.message", content))
        start, types = "", []
        for _ in range(20):
            # nio begins with an empty token.
            page = unwrap(await self.client.room_messages(self.room, start, limit=3))
            types += [event.source["type"] for event in page.chunk]
            start = page.end
            if start is None:
                break
        assert start is None and types[0] == "m.room.message" and types[-1] == "m.room.create", types

    async def keeps_one_event_for_the_same_state(self):
        put = lambda: self.client.room_put_state(self.room, "org.example.state", {"a": 1})
        first, second = unwrap(await put()), unwrap(await put())
        assert first.event_id == second.event_id

    async def reads_the_room_in_all_ways_and_types(self):
        last = unwrap(await self.client.room_messages(self.room, "", limit=1)).chunk[0].event_id
        unwrap(await self.client.room_read_markers(self.room, last, last))
        unwrap(await self.client.update_receipt_marker(self.room, last))
        # A receipt for an event that the server does not have is no error.
        unwrap(await self.client.update_receipt_marker(self.room, "$" + "A" * 43))
        unwrap(await self.client.room_typing(self.room))


async def main():
    app = App()
    for name, step in vars(App).items():
        if name.startswith("_"):
            continue
        try:
            await step(app)
            error = None
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
        print(json.dumps({"step": name.replace("_", " "), "error": error}), flush=True)
    await app.client.close()


asyncio.run(main())
