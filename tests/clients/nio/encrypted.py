"""matrix-nio with encryption: what `agent.py` does, and commands for keys, devices and verification."""

import nio
from agent import Agent, Client, good, run, saw


class EncryptedClient(Client):
    async def room_send(self, room, type, content, txn):
        """Sends to devices that nobody has verified, too."""
        return await super().room_send(room, type, content, txn, ignore_unverified_devices=True)


class EncryptedAgent(Agent):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        # What could not be read when it came in
        self.unread = []

    def new_client(self, user):
        config = nio.AsyncClientConfig(
            encryption_enabled=True,
            store_sync_tokens=False,
            request_timeout=60,
            max_timeout_retry_wait_time=1,
        )
        return EncryptedClient(self.base_url, user, store_path=".", config=config)

    async def login(self, user, password):
        session = await super().login(user, password)
        good(await self.client.keys_upload())
        self.client.add_to_device_callback(self.verifying, nio.KeyVerificationEvent)
        return session

    def report_events(self, room, info):
        super().report_events(room, info)
        for event in info.timeline.events:
            if isinstance(event, nio.MegolmEvent):
                self.unread.append((room, event))
                saw("unreadable", room=room, id=event.event_id)
            elif isinstance(event, nio.RoomMessageText) and event.decrypted:
                self.report_secret(room, event)

    def report(self, response):
        super().report(response)
        for room, event in list(self.unread):
            try:
                self.report_secret(room, self.client.decrypt_event(event))
            except nio.EncryptionError:
                continue
            self.unread.remove((room, event))

    @staticmethod
    def report_secret(room, event):
        saw("secret", room=room, id=event.event_id, sender=event.sender, body=event.body)

    async def create_secret_room(self, invite):
        """A room whose past is for those only who were there."""
        answer = await self.client.room_create(
            preset=nio.RoomPreset.private_chat,
            invite=invite,
            initial_state=[
                nio.EnableEncryptionBuilder().as_dict(),
                nio.ChangeHistoryVisibilityBuilder("joined").as_dict(),
            ],
        )
        return {"room": good(answer).room_id}

    async def kick(self, room, user):
        good(await self.client.room_kick(room, user))

    async def read_back(self, room):
        """The texts of a room by event id, as pages of /messages; `None` where a text cannot be read."""
        texts, start = {}, None
        while True:
            answer = good(await self.client.room_messages(room, start, limit=100))
            for event in answer.chunk:
                if isinstance(event, (nio.RoomMessageText, nio.MegolmEvent)):
                    texts[event.event_id] = getattr(event, "body", None)
            start = answer.end
            if not start or not answer.chunk:
                return texts

    async def as_sent(self, room, id):
        """The event as the server has it."""
        path = nio.Api._build_path(["rooms", room, "event", id])
        headers = {"Authorization": f"Bearer {self.client.access_token}"}
        response = await self.client.send("GET", path, headers=headers)
        response.raise_for_status()
        return await response.json()

    async def decipher(self, event):
        """The text of an event that came by another way; `None` if this device cannot read it."""
        try:
            return self.client.decrypt_event(nio.MegolmEvent.from_dict(event)).body
        except nio.EncryptionError:
            return None

    async def devices(self, user):
        """The ids of a user's devices, as nio knows them by now; it does not count this one."""
        return [device.id for device in self.client.device_store.active_user_devices(user)]

    async def verify(self, user, device):
        good(await self.client.start_key_verification(self.client.device_store[user][device]))

    async def accept(self, id):
        good(await self.client.accept_key_verification(id))

    async def confirm(self, id):
        good(await self.client.confirm_short_auth_string(id))
        self.report_verified(id)

    async def verifying(self, event):
        id = event.transaction_id
        if isinstance(event, nio.KeyVerificationStart):
            saw("asked", id=id, user=event.sender, device=event.from_device)
        elif isinstance(event, nio.KeyVerificationKey):
            # nio has the key to answer with sent before the next sync.
            emoji = [symbol for symbol, _ in self.client.key_verifications[id].get_emoji()]
            saw("emoji", id=id, emoji=emoji)
        elif isinstance(event, nio.KeyVerificationMac):
            self.report_verified(id)
        elif isinstance(event, nio.KeyVerificationCancel):
            saw("trouble", what=f"the verification was cancelled: {event.reason}")

    def report_verified(self, id):
        sas = self.client.key_verifications[id]
        if sas.verified:
            device = sas.other_olm_device
            saw("verified", user=device.user_id, device=device.id)


run(EncryptedAgent)
