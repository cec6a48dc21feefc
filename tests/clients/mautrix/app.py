"""What a bridge does with mautrix: `app.py URL USER PICTURE`. Prints a JSON line per step; see `apps.py`."""

import asyncio
import json
import sys

import aiohttp
from mautrix.api import HTTPAPI, Method, Path
from mautrix.client import ClientAPI
from mautrix.errors import MBadJSON, MInvalidParam, MNotFound
from mautrix.types import EncryptionKeyAlgorithm, EventType, Membership, PaginationDirection

URL, USER, PICTURE = sys.argv[1:]
PASSWORD = "correct horse battery staple"
BRIDGE = {"net.maunium.synapse_double_puppet": "mautrix-test"}


async def register(session, name):
    """In two requests, of which the first is empty."""
    register_url = f"{URL}/_matrix/client/v3/register"
    async with session.post(register_url, json={}) as response:
        assert response.status == 401, response.status
        auth = {"type": "m.login.dummy", "session": (await response.json())["session"]}
    body = {"username": name, "password": PASSWORD, "auth": auth}
    async with session.post(register_url, json=body) as response:
        assert response.status == 200, await response.text()
        return await response.json()


class Bridge:
    def __init__(self, session, registered, ghost):
        self.me, self.device = registered["user_id"], registered["device_id"]
        self.client, self.ghost = (
            ClientAPI(user["user_id"], api=HTTPAPI(URL, user["access_token"], client_session=session))
            for user in (registered, ghost)
        )
        self.painter = self.me.replace(USER, "painter", 1)
        self.room = None

    async def _member(self, user):
        member = await self.client.get_state_event(self.room, EventType.ROOM_MEMBER, user)
        return member.membership, member.serialize()

    async def is_called_by_its_localpart(self):
        self.room = await self.client.create_room(name="portal")
        members = await self.client.get_joined_members(self.room)
        assert members[self.me].displayname == USER, members

    async def invites_by_a_state_event_of_its_own(self):
        await self.client.invite_user(self.room, self.painter, extra_content=BRIDGE)
        membership, content = await self._member(self.painter)
        assert membership == Membership.INVITE and content.items() >= BRIDGE.items(), content

    async def moves_a_ghost_by_state_events(self):
        ghost = self.ghost.mxid
        join_rules = {"join_rule": "knock"}
        await self.client.send_state_event(self.room, EventType.ROOM_JOIN_RULES, join_rules)
        knock = self.ghost.send_member_event(self.room, ghost, Membership.KNOCK, extra_content=BRIDGE)
        for change, expected in [
            (knock, Membership.KNOCK),
            (self.client.invite_user(self.room, ghost, extra_content=BRIDGE), Membership.INVITE),
            (self.ghost.join_room_by_id(self.room, extra_content=BRIDGE), Membership.JOIN),
            (self.client.kick_user(self.room, ghost, extra_content=BRIDGE), Membership.LEAVE),
            (self.client.ban_user(self.room, ghost, extra_content=BRIDGE), Membership.BAN),
            (self.client.unban_user(self.room, ghost, extra_content=BRIDGE), Membership.LEAVE),
            (self.client.invite_user(self.room, ghost, extra_content=BRIDGE), Membership.INVITE),
            (self.ghost.leave_room(self.room, extra_content=BRIDGE), Membership.LEAVE),
            (self.client.invite_user(self.room, ghost, extra_content=BRIDGE), Membership.INVITE),
            (self.ghost.join_room_by_id(self.room), Membership.JOIN),
        ]:
            await change
            membership, content = await self._member(ghost)
            assert membership == expected, (membership, expected)
        assert content["displayname"] == f"{USER}-ghost", content

    async def gives_its_ghost_another_name_in_the_room(self):
        ghost, via = self.ghost.mxid, "join_authorised_via_users_server"
        name = {"displayname": "Ghost", via: self.me}
        await self.ghost.send_member_event(self.room, ghost, Membership.JOIN, extra_content=name)
        _, content = await self._member(ghost)
        assert content["displayname"] == "Ghost" and via not in content, content

    async def finds_its_ghost_in_the_user_directory(self):
        found = await self.client.search_users(f"{USER}-ghost")
        assert [user.user_id for user in found.results] == [self.ghost.mxid], found

    async def gets_the_same_event_for_the_same_state(self):
        send = lambda: self.client.send_state_event(self.room, "m.bridge", {"protocol": "test"}, "portal")
        assert await send() == await send()

    async def keeps_its_mark_on_a_tag(self):
        tag = {"order": 0.5, **BRIDGE}
        await self.client.set_room_tag(self.room, "m.favourite", tag)
        tags = (await self.client.get_room_tags(self.room)).serialize()
        assert tags == {"tags": {"m.favourite": tag}}, tags

    async def reads_back_its_account_data_and_push_rules_as_they_were(self):
        data = {"known": {"a": [0, None]}, **BRIDGE}
        for room in (None, self.room):
            await self.client.set_account_data("net.maunium.test", data, room_id=room)
            assert await self.client.get_account_data("net.maunium.test", room_id=room) == data
        condition = {"kind": "event_match", "key": "sender", "pattern": self.me, **BRIDGE}
        actions = ["notify", {"set_tweak": "sound", "value": "default", **BRIDGE}]
        rule = Path.v3.pushrules["global"].override["net.maunium.test"]
        request = {"conditions": [condition], "actions": actions}
        await self.client.api.request(Method.PUT, rule, request)
        stored = await self.client.api.request(Method.GET, rule)
        assert stored.items() >= request.items(), stored

    async def types_without_a_timeout_and_marks_as_read(self):
        typing = Path.v3.rooms[self.room].typing[self.me]
        await self.client.api.request(Method.PUT, typing, {"typing": True})
        last = await self.ghost.send_text(self.room, "seen")
        await self.client.send_receipt(self.room, last)
        await self.client.set_fully_read_marker(self.room, last, last, extra_content=BRIDGE)
        await self.client.send_receipt(self.room, "$" + "A" * 43)

    async def uploads_one_time_keys_again(self):
        def keys(names, signature):
            signatures = {self.me: {f"ed25519:{self.device}": signature}}
            return {f"signed_curve25519:{name}": {"key": name * 43, "signatures": signatures} for name in names}

        algorithm = EncryptionKeyAlgorithm.SIGNED_CURVE25519
        assert (await self.client.upload_keys(keys("A", "x")))[algorithm] == 1
        assert (await self.client.upload_keys(keys("AB", "y")))[algorithm] == 2
        claimed = await self.ghost.claim_keys({self.me: {self.device: algorithm}})
        assert claimed.one_time_keys[self.me][self.device], claimed
        assert (await self.client.upload_keys(keys("AB", "z")))[algorithm] == 1

    async def is_told_why_device_keys_are_refused(self):
        keys = {"user_id": self.me, "device_id": self.device, "algorithms": [], "keys": {}, "signatures": {}}
        for field in ("algorithms", "keys", "signatures"):
            refused = {name: value for name, value in keys.items() if name != field}
            await expect((MBadJSON, MInvalidParam), self.client.upload_keys(device_keys=refused))
        other = keys | {"user_id": self.painter}
        await expect((MBadJSON, MInvalidParam), self.client.upload_keys(device_keys=other))

    async def is_told_what_does_not_exist(self):
        await expect(MNotFound, self.client.get_event(self.room, "$" + "B" * 43))
        await expect(MInvalidParam, self.client.send_state_event(self.room, EventType.ROOM_CREATE, {}))

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
        page = await self.client.get_messages(self.room, PaginationDirection.FORWARD, limit=100)
        later = await self.client.send_text(self.room, "later")
        following = await self.client.get_messages(self.room, PaginationDirection.FORWARD, page.end)
        assert [event.event_id for event in following.events] == [later], following


async def expect(error, request):
    try:
        found = await request
    except error:
        return
    raise AssertionError(f"no error, but {found}")


async def main():
    async with aiohttp.ClientSession() as session:
        registered = [await register(session, name) for name in (USER, f"{USER}-ghost")]
        bridge = Bridge(session, *registered)
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
