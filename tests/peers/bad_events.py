"""Invalid and forged events. Each contains `LIE` where a client would show it."""

import json

from signedjson.key import generate_signing_key

LIE = "a lie"
MESSAGE, TOPIC, LEVELS, MEMBER = "m.room.message", "m.room.topic", "m.room.power_levels", "m.room.member"
UNKNOWN_EVENT = "$" + "A" * 43
# The largest integer in canonical JSON
MAX_INTEGER = 2**53 - 1


def signatures(attack, room):
    one = room.build_text(LIE)
    name = attack.liar.name
    others = [
        room.build_text("another message")["signatures"],
        {},
        [],
        {name: []},
        {name: {"ed25519:1": 7}},
        {name: {"ed25519:1": "not base64!"}},
        {name: {"ed25519:1": "A" * 86}},
    ]
    unsigned = {field: one[field] for field in one if field != "signatures"}
    signed_by_unknown_keys = [
        room.hash_and_sign(unsigned, key=generate_signing_key(version)) for version in ("1", "unknown")
    ]
    return [*(one | {"signatures": other} for other in others), unsigned, *signed_by_unknown_keys]


def senders(attack, room):
    witness, host = attack.witness, attack.host
    users = (witness.id, host.id, "@ghost:localhost:1", f"@{'x' * 300}:{attack.liar.name}", "mallory", "", 7, None)
    lies = [room.build_text(LIE, sender=user) for user in users]
    signed_as_others = [
        room.hash_and_sign(room.draft(MESSAGE, text(), sender=user.id), name=user.server.name)
        for user in (witness, host)
    ]
    return lies + signed_as_others


def contents(attack, room):
    """Changed after hashing: servers may accept the event, but must redact it."""
    changed = [
        room.build_text("valid") | {"content": text()},
        room.build_text("valid") | {"unsigned": {"note": LIE}},
    ]
    hashes = ({}, [], {"sha256": "A" * 43}, {"sha256": 7}, {"md5": "A"})
    return changed + [room.sign(room.draft(MESSAGE, text()) | {"hashes": other}) for other in hashes]


def power_levels(attack, room):
    """Power levels that mallory may not set, and events that they would authorize."""
    levels = {"users": {attack.liar.user: 100}, "note": LIE}
    forged = room.build(LEVELS, levels, "")
    by_host = room.build(LEVELS, levels, "", sender=attack.host.id)
    dependents = [
        room.build(
            type,
            content,
            "",
            auth_events=[room.event_id(base), *room.auth_events_for(base)],
            prev_events=[room.event_id(base)],
        )
        for base in (forged, by_host)
        for type, content in ((TOPIC, {"topic": LIE}), (LEVELS, levels))
    ]
    return [forged, room.build(TOPIC, {"topic": LIE}, ""), by_host, *dependents]


def members(attack, room):
    witness, host, mallory = attack.witness.id, attack.host.id, attack.liar.user
    ghost = f"@ghost:{attack.liar.name}"
    return [
        room.build(MEMBER, {"membership": membership, "displayname": LIE, "reason": LIE}, target, sender=sender)
        for membership, target, sender in (
            ("leave", host, mallory),
            ("ban", witness, mallory),
            ("leave", host, host),
            ("leave", witness, witness),
            ("join", witness, mallory),
            ("join", ghost, mallory),
            ("invite", f"@ghost:{attack.witness.server.name}", witness),
            ("knock", mallory, mallory),
            ("unknown", mallory, mallory),
            (7, mallory, mallory),
        )
    ]


def auth_events(attack, room):
    valid = room.auth_events_for(room.draft(MESSAGE, text()))
    message_id = next(id for id in room.events if id not in room.state.values())
    lists = [
        [],
        [UNKNOWN_EVENT],
        [*valid, UNKNOWN_EVENT],
        [*valid, valid[0]],
        [*valid, message_id],
        [*valid, attack.secret_event],
        [*valid, room.state[MEMBER, attack.host.id]],
        valid * 50,
        valid[:1],
        "none",
        [7],
        None,
    ]
    return [room.build_text(LIE, auth_events=other) for other in lists]


def positions(attack, room):
    depths = (-1, 2**53, 2**63 - 1, 2**63, 2**64, "1", 1.5, None, [])
    known = list(room.events)
    before = ([], [7], "none", None, [attack.secret_event], [*known[:1], 7], [UNKNOWN_EVENT] * 500, known * 30)
    return [
        *(room.build_text(LIE, depth=depth) for depth in depths),
        *(room.build_text(LIE, prev_events=other) for other in before),
    ]


def rooms(attack, room):
    """Rooms that mallory is not in."""
    secret = attack.secret
    others = (secret, f"!none:{attack.target}", f"!{attack.target}", "room", "", 7, None, [])
    in_secret_room = {"room_id": secret, "prev_events": [attack.secret_event]}
    return [
        *(room.build_text(LIE, room_id=other) for other in others),
        room.build_text(LIE, **in_secret_room),
        room.build(MEMBER, {"membership": "join", "displayname": LIE}, attack.liar.user, **in_secret_room),
        room.build(MEMBER, {"membership": "invite"}, attack.witness.id, **in_secret_room),
    ]


def sizes(attack, room):
    return [
        room.build_text(LIE + "!" * 66_000),
        room.build("x" * 300, text()),
        room.build("x" * 300, text(), ""),
        room.build("x", text(), "y" * 300),
    ]


def types(attack, room):
    """Fields with values of wrong types, and missing fields."""
    values = {
        "type": (7, None, [], {}),
        "content": ([LIE], LIE, 7, None),
        "origin_server_ts": ("1", 1.5, 2**53, None, []),
        "state_key": (7, None, []),
        "sender": ([], {}),
    }
    draft = room.draft(MESSAGE, text())
    wrong = [draft | {field: value} for field, others in values.items() for value in others]
    missing = [{kept: draft[kept] for kept in draft if kept != field} for field in draft]
    numbers = [draft | {"content": text() | {"number": number}} for number in (1.5, 2**53, -(2**53))]
    return [room.hash_and_sign(event) for event in wrong + missing + numbers]


def deep(attack, room):
    """Nested more than 100 levels. Synapse accepts some of them."""
    contents = [text() | {"nested": nested(depth)} for depth in (99, 120, 124, 200)]
    return [room.build(MESSAGE, content) for content in contents]


def nested(depth):
    return json.loads("[" * depth + "]" * depth)


def create_events(attack, room):
    content = {"creator": attack.liar.user, "room_version": room.version, "note": LIE}
    return [
        room.build("m.room.create", content, ""),
        room.build("m.room.create", content, "", prev_events=[], auth_events=[], depth=1),
    ]


def text():
    return {"msgtype": "m.text", "body": LIE}


EVENTS = {
    "events with signatures that are wrong, missing or by unknown keys": signatures,
    "events with senders of other servers": senders,
    "events that were changed after hashing": contents,
    "forged power levels": power_levels,
    "forged memberships": members,
    "events with invalid auth events": auth_events,
    "events with invalid depths and prev_events": positions,
    "events in rooms that the sender is not in": rooms,
    "events that are too large": sizes,
    "events that are nested too deep": deep,
    "events with missing fields or wrong types": types,
    "second create events": create_events,
}
