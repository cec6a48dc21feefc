"""Events that must not be believed, by what is wrong with them. Each says `LIE` where somebody could see it."""

from signedjson.key import generate_signing_key

LIE = "a lie"
MESSAGE, TOPIC, LEVELS, MEMBER = "m.room.message", "m.room.topic", "m.room.power_levels", "m.room.member"
NOWHERE = "$" + "A" * 43
# The greatest integer in canonical JSON
MAX = 2**53 - 1


def signatures(scene, den):
    one = den.say(LIE)
    name = scene.liar.name
    others = [
        den.say("something else")["signatures"],
        {},
        [],
        {name: []},
        {name: {"ed25519:1": 7}},
        {name: {"ed25519:1": "not base64!"}},
        {name: {"ed25519:1": "A" * 86}},
    ]
    unsigned = {field: one[field] for field in one if field != "signatures"}
    by_key = [den.seal(unsigned, key=generate_signing_key(version)) for version in ("1", "unknown")]
    return [*(one | {"signatures": other} for other in others), unsigned, *by_key]


def senders(scene, den):
    guest, host = scene.play.guest, scene.play.host
    users = (guest.id, host.id, "@ghost:localhost:1", f"@{'x' * 300}:{scene.liar.name}", "mallory", "", 7, None)
    lies = [den.say(LIE, sender=user) for user in users]
    as_them = [den.seal(den.draft(MESSAGE, text(), sender=one.id), name=one.server.name) for one in (guest, host)]
    return lies + as_them


def contents(scene, den):
    """Changed after they were hashed: an event may be let in, but not what it says."""
    after = [den.say("the truth") | {"content": text()}, den.say("the truth") | {"unsigned": {"note": LIE}}]
    hashes = ({}, [], {"sha256": "A" * 43}, {"sha256": 7}, {"md5": "A"})
    return after + [den.sign(den.draft(MESSAGE, text()) | {"hashes": other}) for other in hashes]


def powers(scene, den):
    """Power that mallory must not take, and what would follow from it."""
    levels = {"users": {scene.liar.user: 100}, "note": LIE}
    forged = den.make(LEVELS, levels, "")
    by_host = den.make(LEVELS, levels, "", sender=scene.play.host.id)
    followers = [
        den.make(
            type,
            content,
            "",
            auth_events=[den.id_of(base), *den.authority(base)],
            prev_events=[den.id_of(base)],
        )
        for base in (forged, by_host)
        for type, content in ((TOPIC, {"topic": LIE}), (LEVELS, levels))
    ]
    return [forged, den.make(TOPIC, {"topic": LIE}, ""), by_host, *followers]


def members(scene, den):
    guest, host, mallory = scene.play.guest.id, scene.play.host.id, scene.liar.user
    ghost = f"@ghost:{scene.liar.name}"
    return [
        den.make(MEMBER, {"membership": membership, "displayname": LIE, "reason": LIE}, target, sender=sender)
        for membership, target, sender in (
            ("leave", host, mallory),
            ("ban", guest, mallory),
            ("leave", host, host),
            ("leave", guest, guest),
            ("join", guest, mallory),
            ("join", ghost, mallory),
            ("invite", f"@ghost:{scene.play.guest.server.name}", guest),
            ("knock", mallory, mallory),
            ("admire", mallory, mallory),
            (7, mallory, mallory),
        )
    ]


def authority(scene, den):
    good = den.authority(den.draft(MESSAGE, text()))
    said = next(id for id in den.events if id not in den.state.values())
    lists = [
        [],
        [NOWHERE],
        [*good, NOWHERE],
        [*good, good[0]],
        [*good, said],
        [*good, scene.secret_event],
        [*good, den.state[MEMBER, scene.play.host.id]],
        good * 50,
        good[:1],
        "none",
        [7],
        None,
    ]
    return [den.say(LIE, auth_events=other) for other in lists]


def places(scene, den):
    """Depths and previous events."""
    depths = (-1, 2**53, 2**63 - 1, 2**63, 2**64, "1", 1.5, None, [])
    known = list(den.events)
    before = ([], [7], "none", None, [scene.secret_event], [*known[:1], 7], [NOWHERE] * 500, known * 30)
    return [
        *(den.say(LIE, depth=depth) for depth in depths),
        *(den.say(LIE, prev_events=other) for other in before),
    ]


def rooms(scene, den):
    """Other rooms than that in which mallory is."""
    secret = scene.secret
    others = (secret, f"!none:{scene.target}", f"!{scene.target}", "room", "", 7, None, [])
    within = {"room_id": secret, "prev_events": [scene.secret_event]}
    return [
        *(den.say(LIE, room_id=other) for other in others),
        den.say(LIE, **within),
        den.make(MEMBER, {"membership": "join", "displayname": LIE}, scene.liar.user, **within),
        den.make(MEMBER, {"membership": "invite"}, scene.play.guest.id, **within),
    ]


def sizes(scene, den):
    return [
        den.say(LIE + "!" * 66_000),
        den.make("x" * 300, text()),
        den.make("x" * 300, text(), ""),
        den.make("x", text(), "y" * 300),
    ]


def types(scene, den):
    """Values of other types than the format has, and missing ones."""
    values = {
        "type": (7, None, [], {}),
        "content": ([LIE], LIE, 7, None),
        "origin_server_ts": ("1", 1.5, 2**53, None, []),
        "state_key": (7, None, []),
        "sender": ([], {}),
    }
    draft = den.draft(MESSAGE, text())
    wrong = [draft | {field: value} for field, others in values.items() for value in others]
    missing = [{kept: draft[kept] for kept in draft if kept != field} for field in draft]
    numbers = [draft | {"content": text() | {"number": number}} for number in (1.5, 2**53, -(2**53))]
    return [den.seal(event) for event in wrong + missing + numbers]


def beginnings(scene, den):
    content = {"creator": scene.liar.user, "room_version": den.version, "note": LIE}
    return [
        den.make("m.room.create", content, ""),
        den.make("m.room.create", content, "", prev_events=[], auth_events=[], depth=1),
    ]


def text():
    return {"msgtype": "m.text", "body": LIE}


EVENTS = {
    "events with signatures that are wrong, missing or by unknown keys": signatures,
    "events of other servers' users": senders,
    "contents that were changed after they were hashed": contents,
    "powers taken without right": powers,
    "memberships forged": members,
    "events with forged auth events": authority,
    "events with impossible depths and previous events": places,
    "events for rooms that the sender is not in": rooms,
    "events that are too large": sizes,
    "events of no known form": types,
    "second beginnings": beginnings,
}
