"""What the state of a room must be: computed from all its events, one by one, with Synapse's own rules and
resolution over whole auth chains. No server of the test has a part in it."""

from synapse.api.errors import AuthError
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.event_auth import auth_types_for_event, check_state_dependent_auth_rules
from synapse.events import make_event_from_dict
from synapse.state.v2 import resolve_events_with_store
from synapse.storage.databases.main.event_federation import StateDifference


class Oracle:
    def __init__(self, version, pdus):
        self.rules = KNOWN_ROOM_VERSIONS[version]
        events = [make_event_from_dict(pdu, self.rules) for pdu in pdus]
        self.events = {event.event_id: event for event in events}
        self.rejected = set()
        self._chains = {}
        self._after = {}

    def state_after(self, end):
        """(type, key) -> event id, after the event `end` and all before it."""
        open = [end]
        while open:
            event = self.events[open[-1]]
            if missing := [id for id in event.prev_event_ids() if id not in self._after]:
                open += missing
            else:
                self._after[open.pop()] = self._work_in(event)
        return self._after[end]

    def _work_in(self, event):
        before = self._resolve([self._after[id] for id in event.prev_event_ids()])
        try:
            self._check(event, [self.events[id] for id in event.auth_event_ids()])
            types = {("m.room.create", ""), *auth_types_for_event(self.rules, event)}
            self._check(event, [self.events[before[key]] for key in types if key in before])
        except AuthError:
            self.rejected.add(event.event_id)
            self.events[event.event_id] = make_event_from_dict(
                event.get_pdu_json(), self.rules, rejected_reason="by the rules"
            )
            return before
        if event.is_state():
            return before | {(event.type, event.state_key): event.event_id}
        return before

    def _check(self, event, authority):
        if any(other.event_id in self.rejected for other in authority):
            raise AuthError(403, "by a rejected event")
        if event.type != "m.room.create":
            check_state_dependent_auth_rules(event, authority)

    def _resolve(self, states):
        if len(states) < 2:
            return dict(states[0]) if states else {}
        room = next(iter(self.events.values())).room_id
        return dict(finish(resolve_events_with_store(self, room, self.rules, states, None, self)))

    # What the resolution asks its store and its clock for

    async def sleep(self, duration):
        pass

    async def get_events(self, ids, allow_rejected=False):
        return {id: self.events[id] for id in ids if allow_rejected or id not in self.rejected}

    async def get_auth_chain_difference(self, room, states, conflicted, additional):
        chains = [set().union(*(self._chain(id) for id in state)) for state in states]
        difference = set().union(*chains) - set.intersection(*chains)
        if conflicted is None:
            return StateDifference(difference, None)
        near = set().union(*(self._chain(id) for id in conflicted))
        return StateDifference(difference, {id for id in near if self._chain(id) & conflicted})

    def _chain(self, id):
        """The event and all that allowed it."""
        if id not in self._chains:
            authority = self.events[id].auth_event_ids()
            self._chains[id] = {id}.union(*(self._chain(other) for other in authority))
        return self._chains[id]


def finish(coroutine):
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("it waits")
