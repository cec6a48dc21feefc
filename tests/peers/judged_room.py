"""A room of honest users on the host's server and of bob on another one, of which all events are known.

The state that the host's server has is compared with the one that `oracle.py` computes from the true events:
those that honest users have sent, and those of a liar that the host's server has accepted."""

from bad_events import MAX_INTEGER
from liar import LiarRoom
from oracle import Oracle

CREATE, LEVELS, MEMBER = "m.room.create", "m.room.power_levels", "m.room.member"
RULES, VISIBILITY = "m.room.join_rules", "m.room.history_visibility"
VITAL = (CREATE, LEVELS, MEMBER, RULES, VISIBILITY)


class WitnessOut(Exception):
    """By the room's own rules bob is out of it, and his server sees no state any more: a fork from before his join
    can do that in versions before 12."""


class JudgedRoom:
    def __init__(self, ctx, users, bob, sending, liar):
        """`sending` is the lock of bob's server, which sends one transaction after the other."""
        self.ctx = ctx
        self.host = ctx.host
        self.users = users
        self.bob = bob
        self.sending = sending
        self.liar = liar
        self.target = ctx.host.server.name
        self.id = None
        # All events, also those that were not sent to the host's server
        self.events = {}
        # Events of bob that were not sent to it
        self.unsent = []
        # The last event that the host's server has made, and the states after all such events
        self.last = None
        self.states = []

    async def create(self):
        host, version = self.host, self.ctx.version
        levels = {"users": {self.bob.user: 75, self.users[1].id: 50}, "events": {"test.state": 0}}
        if int(version) < 12:
            levels["users"][host.id] = 100
        self.id = await host.create_room(version, preset="public_chat", power_level_content_override=levels)
        for user in self.users[1:]:
            await user.join(self.id)
        self.of_bob = await self.bob.join(self.target, self.id, version)
        self.of_liar = await self.liar.join(self.target, self.id, version)
        # Both know of all events: what a server has not received is up to the test.
        for room in (self.of_bob, self.of_liar):
            self.events |= room.events
            room.events = self.events
        self.of_bob.state_before = self.ids_before
        await self.go_on()

    def ids_before(self, id):
        return list(self.state_after(*self.events[id]["prev_events"]).values())

    def event_id(self, event):
        return self.of_bob.event_id(event)

    def add(self, event):
        id = self.event_id(event)
        self.events[id] = event
        return id

    async def go_on(self):
        """The host sends a message after all that its server has accepted."""
        self.last = await self.host.send_text(self.id, "a message")
        await self.fetch(self.last)

    async def fetch(self, id):
        """Fetches an event, and those of the host's server before it, from there."""
        pending = [id]
        while pending:
            if (id := pending.pop()) not in self.events:
                status, response = await self.bob.request(self.target, "GET", "event", id)
                # Some events of the liar follow events that do not exist.
                if status == 200:
                    self.add(response["pdus"][0])
                    pending += response["pdus"][0]["prev_events"] + response["pdus"][0]["auth_events"]

    async def act_as_bob(self, type, content, state_key=None):
        """Bob's server makes an event, but does not send it yet."""
        room = self.of_bob
        ends = [self.last, *self.unsent[-1:]]
        room.state = self.state_after(*ends)
        depth = min(1 + max(self.events[id]["depth"] for id in ends), MAX_INTEGER)
        self.unsent.append(self.add(room.build(type, content, state_key, prev_events=ends, depth=depth)))

    async def send_as_bob(self):
        """Bob's server sends all its events."""
        while self.unsent:
            id = self.unsent[0]
            async with self.sending:
                status, response = await self.bob.send(self.target, [self.events[id]])
            assert (status, response) == (200, {"pdus": {id: {}}}), (status, response)
            self.unsent.pop(0)

    # The judgement

    def history(self, *ends, without=(), through_liar=True):
        """The true events before `ends`, with these: id -> prev_events. An event of the liar that leads to an
        event that does not exist, or is in `without`, must have no effect on others. In its place stand the
        true events before it, unless `through_liar` is false."""
        history, before, standing = {}, {}, {}
        pending = list(ends)
        while pending:
            id = pending[-1]
            prev_events = self.events[id]["prev_events"] if id in self.events and id not in without else []
            if open := [prev for prev in prev_events if prev not in standing]:
                pending += open
                continue
            pending.pop()
            true = {true for prev in prev_events for true in standing[prev]}
            is_complete = set(prev_events) <= history.keys()
            if not true and not self._is_create(id):
                standing[id] = set()
            elif is_complete or not self.is_of_liar(id):
                earlier = {id for prev in true for id in before[prev]}
                history[id] = sorted(true - earlier)
                before[id] = true | earlier
                standing[id] = {id}
            else:
                standing[id] = true if through_liar else set()
        return history

    def _is_create(self, id):
        return id in self.events and self.events[id]["type"] == CREATE and not self.is_of_liar(id)

    def is_of_liar(self, id):
        return self.events[id]["sender"].endswith(self.liar.name)

    def state_after(self, *ends, **options):
        """The state after these events, see `history`."""
        history = self.history(*ends, **options)
        known, pending = set(history), [*history]
        while pending:
            for id in self.events[pending.pop()]["auth_events"]:
                if id in self.events and id not in known:
                    known.add(id)
                    pending.append(id)
        # An event of the liar may name auth events that do not exist.
        complete = {id for id in known if self._is_complete(id)}
        assert history.keys() <= complete
        oracle = Oracle(self.ctx.version, [self.events[id] for id in complete], history)
        return oracle.state_after(*(end for end in ends if end in history))

    def _is_complete(self, id):
        """Whether all auth events exist."""
        pending, seen = [id], set()
        while pending:
            if (id := pending.pop()) not in self.events:
                return False
            if id not in seen:
                seen.add(id)
                pending += self.events[id]["auth_events"]
        return True

    async def check(self, lenient=True):
        """Compares the state before the last event. While events of bob are not sent, a claim may have shown
        them to the host's server."""
        last = self.last
        expected = [self.state_after(last), self.state_after(last, through_liar=False)]
        # What the host's server does not have may be in a response of the liar and in the history of its events.
        absent = [id for id in self.events if self.is_of_liar(id) and not await self.has(id)]
        for without in (self.unsent, absent, self.unsent + absent):
            if without:
                expected.append(self.state_after(last, without=without))
        unsent = list(self.unsent) if lenient else []
        actual = await self.state_before(last, may_be_out=not all(map(self.is_bob_in, expected)))
        self.states.append(expected[0])
        self.compare(actual, expected, unsent, bans=True)

    def is_bob_in(self, state):
        id = state.get((MEMBER, self.bob.user))
        return id is not None and self.membership(id) == "join"

    async def has(self, id):
        """Whether the host's server has accepted an event."""
        return (await self.bob.request(self.target, "GET", "event", id))[0] == 200

    async def state_before(self, id, may_be_out=False):
        """The state before an event, as the host's server has it. Raises `WitnessOut` if bob is out and may be."""
        status, response = await self.bob.request(self.target, "GET", "state_ids", self.id, event_id=id)
        if status == 403 and may_be_out:
            raise WitnessOut
        assert status == 200, f"bob's server is out of the room: {response}"
        state = [self.events[id] for id in response["pdu_ids"]]
        return {(event["type"], event["state_key"]): self.event_id(event) for event in state}

    def compare(self, actual, expected, permitted=(), bans=False):
        """`permitted` are events that may be in the state, too. The liar decides on the memberships of its
        users, unless they are banned, which is checked with `bans`."""
        for key in sorted(set(actual).union(*expected)):
            type, user = key
            if type not in VITAL:
                continue
            if type == MEMBER and user.endswith(self.liar.name):
                is_banned = all(key in state and self.membership(state[key]) == "ban" for state in expected)
                if not (bans and is_banned):
                    continue
            allowed = {state.get(key) for state in expected}
            allowed |= {id for id in permitted if self.key_of(id) == key}
            assert actual.get(key) in allowed, (
                f"{key}: {self.show(actual.get(key))} instead of {[self.show(id) for id in allowed]}"
            )

    def key_of(self, id):
        event = self.events[id]
        return event["type"], event.get("state_key")

    def membership(self, id):
        return self.events[id]["content"]["membership"]

    def show(self, id):
        if id is None:
            return "nothing"
        event = self.events[id]
        return f"{id} of {event['sender']} at depth {event['depth']}: {event['content']}"
