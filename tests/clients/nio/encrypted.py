"""Agent for matrix-nio with encryption: adds commands for keys, devices and verification."""

import nio
from agent import Agent, Client, unwrap, run, observed


class EncryptedClient(Client):
    async def room_send(self, room, type, content, txn):
        """Also sends to unverified devices."""
        return await super().room_send(room, type, content, txn, ignore_unverified_devices=True)


class EncryptedAgent(Agent):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        # (room, event) that could not be decrypted on arrival
        self.undecrypted = []

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
        unwrap(await self.client.keys_upload())
        self.client.add_to_device_callback(self.verifying, nio.KeyVerificationEvent)
        return session

    def report_events(self, room, info):
        super().report_events(room, info)
        for event in info.timeline.events:
            if isinstance(event, nio.MegolmEvent):
                self.undecrypted.append((room, event))
                observed("undecryptable", room=room, id=event.event_id)
            elif isinstance(event, nio.RoomMessageText) and event.decrypted:
                self.report_decrypted(room, event)

    def report_sync(self, response):
        super().report_sync(response)
        for room, event in list(self.undecrypted):
            try:
                self.report_decrypted(room, self.client.decrypt_event(event))
            except nio.EncryptionError:
                continue
            self.undecrypted.remove((room, event))

    @staticmethod
    def report_decrypted(room, event):
        observed("decrypted", room=room, id=event.event_id, sender=event.sender, body=event.body)

    async def create_encrypted_room(self, invite):
        """Creates a room with history visibility `joined`."""
        response = await self.client.room_create(
            preset=nio.RoomPreset.private_chat,
            invite=invite,
            initial_state=[
                nio.EnableEncryptionBuilder().as_dict(),
                nio.ChangeHistoryVisibilityBuilder("joined").as_dict(),
            ],
        )
        return {"room": unwrap(response).room_id}

    async def kick(self, room, user):
        unwrap(await self.client.room_kick(room, user))

    async def decrypted_history(self, room):
        """Event id -> text of all messages by /messages; `None` if it cannot be decrypted."""
        texts, start = {}, None
        while True:
            response = unwrap(await self.client.room_messages(room, start, limit=100))
            for event in response.chunk:
                if isinstance(event, (nio.RoomMessageText, nio.MegolmEvent)):
                    texts[event.event_id] = getattr(event, "body", None)
            start = response.end
            if not start or not response.chunk:
                return texts

    async def fetch_event(self, room, id):
        """The event as stored by the server."""
        path = nio.Api._build_path(["rooms", room, "event", id])
        headers = {"Authorization": f"Bearer {self.client.access_token}"}
        response = await self.client.send("GET", path, headers=headers)
        response.raise_for_status()
        return await response.json()

    async def decrypt(self, event):
        """The text of an encrypted event; `None` if this device cannot decrypt it."""
        try:
            return self.client.decrypt_event(nio.MegolmEvent.from_dict(event)).body
        except nio.EncryptionError:
            return None

    async def devices(self, user):
        """The ids of a user's devices that nio knows, without this one."""
        return [device.id for device in self.client.device_store.active_user_devices(user)]

    async def verify(self, user, device):
        unwrap(await self.client.start_key_verification(self.client.device_store[user][device]))

    async def accept(self, id):
        unwrap(await self.client.accept_key_verification(id))

    async def confirm(self, id):
        unwrap(await self.client.confirm_short_auth_string(id))
        self.report_verified(id)

    async def verifying(self, event):
        id = event.transaction_id
        if isinstance(event, nio.KeyVerificationStart):
            observed("verification_request", id=id, user=event.sender, device=event.from_device)
        elif isinstance(event, nio.KeyVerificationKey):
            # nio sends its own key before the next sync.
            emoji = [symbol for symbol, _ in self.client.key_verifications[id].get_emoji()]
            observed("emoji", id=id, emoji=emoji)
        elif isinstance(event, nio.KeyVerificationMac):
            self.report_verified(id)
        elif isinstance(event, nio.KeyVerificationCancel):
            observed("failure", what=f"the verification was cancelled: {event.reason}")

    def report_verified(self, id):
        sas = self.client.key_verifications[id]
        if sas.verified:
            device = sas.other_olm_device
            observed("verified", user=device.user_id, device=device.id)


run(EncryptedAgent)
