"""The expected state of a room, computed from all its events with Synapse's authorization rules and state
resolution. It is independent of the servers under test.

`prev_events` has those of each event in the history, if they are not just those that the events name."""

from synapse.api.errors import AuthError
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS, StateResolutionVersions
from synapse.event_auth import (
    auth_types_for_event,
    check_state_dependent_auth_rules,
    check_state_independent_auth_rules,
)
from synapse.events import make_event_from_dict
from synapse.state import v1, v2
from synapse.storage.databases.main.event_federation import StateDifference


class Oracle:
    def __init__(self, version, pdus, prev_events=None):
        self.rules = KNOWN_ROOM_VERSIONS[version]
        events = [make_event_from_dict(pdu, self.rules) for pdu in pdus]
        self.events = {event.event_id: event for event in events}
        self.prev_events = prev_events or {id: event.prev_event_ids() for id, event in self.events.items()}
        self.rejected = set()
        # Auth events that were judged before the events that come before them were, or that are in no history
        self._outliers = set()
        self._chains = {}
        self._after = {}

    def state_after(self, *ends):
        """(type, state key) -> event id, after the events `ends` and all events before them."""
        pending = list(ends)
        while pending:
            id = pending[-1]
            if missing := [prev for prev in self.prev_events[id] if prev not in self._after]:
                pending += missing
            else:
                self._after[pending.pop()] = self._apply(self.events[id])
        return self._resolve([self._after[end] for end in ends])

    def _apply(self, event):
        before = self._resolve([self._after[id] for id in self.prev_events[event.event_id]])
        try:
            self._check_by_auth_events(event)
            types = {("m.room.create", ""), *auth_types_for_event(self.rules, event)}
            check_state_dependent_auth_rules(event, [self.events[before[key]] for key in types if key in before])
        except AuthError:
            self._reject(event)
            return before
        if event.is_state():
            return before | {(event.type, event.state_key): event.event_id}
        return before

    def _check_by_auth_events(self, event):
        auth_events = {id: self._judged(id) for id in event.auth_event_ids()}
        run_to_completion(check_state_independent_auth_rules(self, event, auth_events))
        check_state_dependent_auth_rules(event, auth_events.values())

    def _judged(self, id):
        """An event, marked if it is rejected."""
        if id not in self._after and id not in self._outliers:
            self._outliers.add(id)
            try:
                self._check_by_auth_events(self.events[id])
            except AuthError:
                self._reject(self.events[id])
        return self.events[id]

    def _reject(self, event):
        self.rejected.add(event.event_id)
        self.events[event.event_id] = make_event_from_dict(
            event.get_pdu_json(), self.rules, rejected_reason="authorization rules"
        )

    def _resolve(self, states):
        if len(states) < 2:
            return dict(states[0]) if states else {}
        room = next(iter(self.events.values())).room_id
        if self.rules.state_res == StateResolutionVersions.V1:
            resolution = v1.resolve_events_with_store(room, self.rules, states, None, self.get_events)
        else:
            resolution = v2.resolve_events_with_store(self, room, self.rules, states, None, self)
        return dict(run_to_completion(resolution))

    # The interface of the store and the clock that the resolution uses

    async def sleep(self, duration):
        pass

    async def get_events(self, ids, allow_rejected=False, redact_behaviour=None):
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
