"""The expected state of a room, computed from all its events with Synapse's authorization rules and state
resolution. It is independent of the servers under test."""

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
        """(type, state key) -> event id, after the event `end` and all events before it."""
        pending = [end]
        while pending:
            event = self.events[pending[-1]]
            if missing := [id for id in event.prev_event_ids() if id not in self._after]:
                pending += missing
            else:
                self._after[pending.pop()] = self._apply(event)
        return self._after[end]

    def _apply(self, event):
        before = self._resolve([self._after[id] for id in event.prev_event_ids()])
        try:
            self._check(event, [self.events[id] for id in event.auth_event_ids()])
            types = {("m.room.create", ""), *auth_types_for_event(self.rules, event)}
            self._check(event, [self.events[before[key]] for key in types if key in before])
        except AuthError:
            self.rejected.add(event.event_id)
            self.events[event.event_id] = make_event_from_dict(
                event.get_pdu_json(), self.rules, rejected_reason="authorization rules"
            )
            return before
        if event.is_state():
            return before | {(event.type, event.state_key): event.event_id}
        return before

    def _check(self, event, auth_events):
        if any(other.event_id in self.rejected for other in auth_events):
            raise AuthError(403, "rejected auth event")
        if event.type != "m.room.create":
            check_state_dependent_auth_rules(event, auth_events)

    def _resolve(self, states):
        if len(states) < 2:
            return dict(states[0]) if states else {}
        room = next(iter(self.events.values())).room_id
        return dict(run_to_completion(resolve_events_with_store(self, room, self.rules, states, None, self)))

    # The interface of the store and the clock that the resolution uses

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
        """The event and its auth chain."""
        if id not in self._chains:
            auth_events = self.events[id].auth_event_ids()
            self._chains[id] = {id}.union(*(self._chain(other) for other in auth_events))
        return self._chains[id]


def run_to_completion(coroutine):
    """The result of a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("the coroutine suspended")
