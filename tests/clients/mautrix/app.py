"""What a bridge does with mautrix: `app.py URL USER PICTURE`. Prints a JSON line per step; see `apps.py`."""

import asyncio
import json
import sys

import aiohttp
from mautrix.api import HTTPAPI
from mautrix.client import ClientAPI
from mautrix.types import EventType, Membership

URL, USER, PICTURE = sys.argv[1:]
PASSWORD = "correct horse battery staple"
BRIDGE = {"net.maunium.synapse_double_puppet": "mautrix-test"}


async def register(session):
    """In two requests, of which the first is empty."""
    register_url = f"{URL}/_matrix/client/v3/register"
    async with session.post(register_url, json={}) as response:
        assert response.status == 401, response.status
        auth = {"type": "m.login.dummy", "session": (await response.json())["session"]}
    body = {"username": USER, "password": PASSWORD, "auth": auth}
    async with session.post(register_url, json=body) as response:
        assert response.status == 200, await response.text()
        return await response.json()


class Bridge:
    def __init__(self, session, registered):
        self.me = registered["user_id"]
        api = HTTPAPI(URL, registered["access_token"], client_session=session)
        self.client = ClientAPI(self.me, api=api)
        self.painter = self.me.replace(USER, "painter", 1)
        self.room = None

    async def is_called_by_its_localpart(self):
        self.room = await self.client.create_room(name="portal")
        members = await self.client.get_joined_members(self.room)
        assert members[self.me].displayname == USER, members

    async def invites_by_a_state_event_of_its_own(self):
        await self.client.invite_user(self.room, self.painter, extra_content=BRIDGE)
        member = await self.client.get_state_event(self.room, EventType.ROOM_MEMBER, self.painter)
        assert member.membership == Membership.INVITE
        assert member.serialize().items() >= BRIDGE.items(), member.serialize()

    async def gets_the_same_event_for_the_same_state(self):
        send = lambda: self.client.send_state_event(self.room, "m.bridge", {"protocol": "test"}, "portal")
        assert await send() == await send()

    async def keeps_its_mark_on_a_tag(self):
        tag = {"order": 0.5, **BRIDGE}
        await self.client.set_room_tag(self.room, "m.favourite", tag)
        tags = (await self.client.get_room_tags(self.room)).serialize()
        assert tags == {"tags": {"m.favourite": tag}}, tags

    async def redacts_what_is_not_here(self):
        event = "$" + "A" * 43
        assert (await self.client.redact(self.room, event, "deleted there")).startswith("$")

    async def uploads_later_than_it_names_the_file(self):
        uri = await self.client.upload_media(b"later", "text/plain", async_upload=True)
        for tries in range(250):
            try:
                assert await self.client.download_media(uri) == b"later"
                return
            # Without a token, a download does not wait for the upload.
            except aiohttp.ClientResponseError:
                await asyncio.sleep(0.02)
        raise TimeoutError(uri)

    async def shows_a_picture(self):
        assert (await self.client.download_media(PICTURE)).startswith(b"\x89PNG")
        assert await self.client.download_thumbnail(PICTURE, 32, 32)

    async def reads_forwards_to_what_comes_later(self):
        from mautrix.types import PaginationDirection

        page = await self.client.get_messages(self.room, PaginationDirection.FORWARD, limit=100)
        later = await self.client.send_text(self.room, "later")
        following = await self.client.get_messages(self.room, PaginationDirection.FORWARD, page.end)
        assert [event.event_id for event in following.events] == [later], following


async def main():
    async with aiohttp.ClientSession() as session:
        bridge = Bridge(session, await register(session))
        for name, step in vars(Bridge).items():
            if name.startswith("_"):
                continue
            try:
                await step(bridge)
                error = None
            except Exception as failure:
                error = f"{type(failure).__name__}: {failure}"
            print(json.dumps({"step": name.replace("_", " "), "error": error}), flush=True)


asyncio.run(main())
