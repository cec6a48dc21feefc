"""The scenario of people who talk in an encrypted room. Of makes it knows what they lack."""

import asyncio
import contextlib

from client import DEADLINE
from household import PASSWORD

MESSAGES = 300
AT_ONCE = 6


async def encryption(stage):
    for person in (stage.alice, stage.bob, stage.carol):
        await begin(stage, person)
    await meet(stage)
    for me, other in stage.both_ways():
        await verify_new_device(stage, me, other)
    for me, other in stage.both_ways():
        if me.can("key backup"):
            await recover_on_new_device(stage, me, other)
    if stage.alice.can("cross-signing") and stage.bob.can("cross-signing"):
        await verify_each_other(stage)
    await come_and_go(stage)
    for me, other in stage.both_ways():
        await log_out(stage, me, other)
    for me, other in stage.both_ways():
        await be_away(stage, me, other)
    for me, other in stage.both_ways():
        if me.can("dehydrated devices"):
            await leave_and_return(stage, me, other)


async def begin(stage, person):
    with stage.claim(f"{person} registers, logs in and syncs"):
        await person.register()
    if person.can("cross-signing"):
        with stage.claim(f"{person} sets up cross-signing, a store for secrets and a key backup"):
            answer = await person.first.call("secure", password=PASSWORD)
            person.recovery_key = answer["recovery_key"]


async def meet(stage):
    alice, bob = stage.alice, stage.bob
    with stage.claim(f"{alice} makes an encrypted room, its past for those who were there, and invites {bob}, who joins"):
        made = await alice.first.call("create_secret_room", invite=[bob.id])
        stage.room = made["room"]
        await alice.first.sees("membership", room=stage.room, membership="join")
        await enter(stage, bob)
    for me, other in stage.both_ways():
        with stage.claim(f"{other} reads what {me} says, and the server has only ciphertext"):
            id = await stage.say(me.first, f"{me} whispers")
            await stage.is_read(id, other.first)
            held = await other.first.call("as_sent", room=stage.room, id=id)
            assert held["type"] == "m.room.encrypted" and "whispers" not in str(held), held


async def enter(stage, person):
    """All of the person's devices, and Alice's first, have seen it when this returns."""
    await person.first.sees("membership", room=stage.room, membership="invite")
    await person.first.call("join", room=stage.room)
    for device in person.devices:
        await device.sees("membership", room=stage.room, membership="join")
    for witness in stage.devices():
        await witness.sees("member", room=stage.room, user=person.id, membership="join")


async def known(device, *witnesses):
    """Waits until all of these know the device."""
    for witness in witnesses:
        await until(lambda: knows(witness, device))


async def knows(witness, device):
    return await knows_id(witness, device.user, device.id)


async def knows_id(witness, user, device):
    return device in await witness.call("devices", user=user)


async def verify_new_device(stage, me, other):
    with stage.claim(f"{me} adds a device, and all others come to know it"):
        old, new = me.first, await me.add_device()
        await known(new, old, *other.devices)
        await known(old, new)
    with stage.claim(f"both devices of {me} show the same seven emoji, and then each holds the other for verified"):
        await old.call("verify", user=me.id, device=new.id)
        await compare_emoji(old, new)
    if me.can("cross-signing"):
        with stage.claim(f"{me}'s new device is signed, and has been sent the account's secrets"):
            await until(lambda: new.call("has_secrets"))
            await until(lambda: is_signed(old, new))
        if other.can("cross-signing"):
            with stage.claim(f"{other} sees that {me}'s new device is signed by {me}"):
                await until(lambda: is_signed(other.first, new))
    await hear_each_other(stage, new, other)


async def is_signed(witness, device):
    opinion = await witness.call("opinion", user=device.user, device=device.id)
    return opinion is not None and opinion["signed"]


async def compare_emoji(asking, asked):
    """What follows when one device has asked to be verified with another."""
    id = (await asked.sees("asked", user=asking.user))["id"]
    await asked.call("accept", id=id)
    shown = [(await device.sees("emoji", id=id))["emoji"] for device in (asking, asked)]
    assert shown[0] == shown[1] and len(shown[0]) == 7, shown
    for device in (asking, asked):
        await device.call("confirm", id=id)
    await asking.sees("verified", user=asked.user, device=asked.id)
    await asked.sees("verified", user=asking.user, device=asking.id)


async def hear_each_other(stage, new, other):
    with stage.claim(f"{new} reads what all others say, and all of them read what it says"):
        for device in other.devices:
            await stage.talk(device, new)
        await stage.talk(new, *(device for device in stage.devices() if device is not new))


async def recover_on_new_device(stage, me, other):
    with stage.claim(f"all room keys of {me}'s are in the backup"):
        await me.first.call("backed_up")
    with stage.claim(f"{me} adds a device that is verified by the recovery key alone, and restores the backup"):
        new = await me.add_device()
        unread = [id for id, text in (await new.call("read_back", room=stage.room)).items() if text is None]
        assert unread, "it could read everything without the backup"
        restored = await new.call("recover", recovery_key=me.recovery_key)
        assert restored["total"] == restored["imported"] > 0, restored
        await known(new, *other.devices)
        await until(lambda: is_signed(me.first, new))
    with stage.claim(f"it reads all {len(stage.said)} messages from before it was there"):
        await reads_all(stage, new, stage.said)
    await hear_each_other(stage, new, other)


async def verify_each_other(stage):
    alice, bob = stage.alice, stage.bob
    with stage.claim(f"{alice} and {bob} see the same seven emoji in the room, and then each holds the other for verified"):
        await alice.first.call("verify_user", user=bob.id, room=stage.room)
        await compare_emoji(alice.first, bob.first)
    for me, other in stage.both_ways():
        with stage.claim(f"so does every device of {me}"):
            for device in me.devices:
                await until(lambda: device.call("trusts_user", user=other.id))


async def come_and_go(stage):
    alice, bob, carol = stage.alice, stage.bob, stage.carol
    with stage.claim(f"{carol} is invited and joins later"):
        earlier = list(stage.said)
        await alice.first.call("invite", room=stage.room, user=carol.id)
        await enter(stage, carol)
        await known(carol.first, *stage.devices())
    with stage.claim(f"{carol} reads what is said from now on, and is read"):
        for device in stage.devices():
            await stage.talk(device, carol.first)
        await stage.talk(carol.first, *stage.devices())
    with stage.claim(f"{carol} reads nothing of what was said before, even when she is given it"):
        for id in earlier:
            sent = await alice.first.call("as_sent", room=stage.room, id=id)
            assert await carol.first.call("decipher", event=sent) is None, sent
    with stage.claim(f"{alice} removes {carol}"):
        await alice.first.call("kick", room=stage.room, user=carol.id)
        for device in stage.devices():
            await device.sees("member", room=stage.room, user=carol.id, membership="leave")
        await carol.first.sees("membership", room=stage.room, membership="leave")
    with stage.claim(f"{carol} cannot read what anybody says from then on, even when she is given it; all others can"):
        for device in stage.devices():
            id = await stage.say(device, f"{device} is glad that {carol} is gone")
            others = [other for other in stage.devices() if other is not device]
            await stage.is_read(id, *others)
            sent = await others[0].call("as_sent", room=stage.room, id=id)
            assert await others[0].call("decipher", event=sent) == stage.said[id]
            assert await carol.first.call("decipher", event=sent) is None, f"{carol} has the key of {device}"


async def log_out(stage, me, other):
    with stage.claim(f"{me} logs a device out, and all others see it go"):
        gone = me.devices.pop()
        await gone.call("logout")
        await gone.stop()
        for witness in stage.devices():
            await until(lambda: forgot(witness, gone))
    with stage.claim("those who are left go on talking"):
        await stage.talk(me.first, *other.devices)
        await stage.talk(other.first, *me.devices)


async def forgot(witness, device):
    return not await knows(witness, device)


async def be_away(stage, me, other):
    """`me` is away: with the server, if `other` is on another one. Then only the device that has met `me`
    before sends: a new one gets no one-time keys from a server that is down, so it could not be read."""
    apart = me.server is not other.server
    away = f"{me}'s server is down" if apart else f"{me} is away"
    said = []
    with stage.claim(f"{away} while {other} adds a device and sends {MESSAGES} messages"):
        if apart:
            await asyncio.to_thread(me.server.stop)
        else:
            for device in me.devices:
                await device.call("pause")
        new = await other.add_device()
        await known(new, other.first)
        await new.sees("membership", room=stage.room, membership="join")
        senders = (other.first,) if apart else (other.first, new)
        numbers = iter(range(MESSAGES))

        async def send(device):
            for number in numbers:
                said.append(await stage.say(device, f"{device} goes on: {number}"))

        async with asyncio.TaskGroup() as group:
            for worker in range(AT_ONCE):
                group.create_task(send(senders[worker % len(senders)]))
    with stage.claim(f"{me} is back, and every device of {me}'s reads all of them"):
        if apart:
            await asyncio.to_thread(me.server.start)
            await asyncio.gather(*(device.call("network_back") for device in me.devices))
        else:
            for device in me.devices:
                await device.call("resume")
        for device in me.devices:
            await reads_all(stage, device, said)
    with stage.claim(f"{me} knows the new device, and {other} reads on both what {me} says"):
        await known(new, *me.devices)
        for device in me.devices:
            await stage.talk(device, *other.devices)
        await stage.talk(new, *me.devices)


async def leave_and_return(stage, me, other):
    with stage.claim(f"{me} leaves a sealed device on the server, and {other} comes to know it"):
        left = await me.first.call("leave_device")
        assert left["messages"] == 0, left
        for witness in other.devices:
            await until(lambda: knows_id(witness, me.id, left["device"]))
    with stage.claim(f"{me} logs out everywhere, and {other} goes on talking"):
        while me.devices:
            gone = me.devices.pop()
            await gone.call("logout")
            await gone.stop()
            for witness in other.devices:
                await until(lambda: forgot(witness, gone))
        said = [await stage.say(device, f"{device} waits for {me}") for device in other.devices for _ in range(3)]
    with stage.claim(f"{me} logs in again, wakes the sealed device, and reads what was said meanwhile"):
        new = await me.add_device()
        await new.call("recover", recovery_key=me.recovery_key)
        woken = await new.call("leave_device")
        assert woken["keys"] == len(other.devices) and woken["device"] != left["device"], woken
        await reads_all(stage, new, said)
        for witness in other.devices:
            await until(lambda: knows_id(witness, me.id, woken["device"]))
            assert not await knows_id(witness, me.id, left["device"])
    await hear_each_other(stage, new, other)


async def reads_all(stage, device, ids):
    """Waits until a device can read all of these where it pages back, for as long as they become more."""
    missing = dict.fromkeys(ids)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2 * DEADLINE) as patience:
            while missing:
                texts = await device.call("read_back", within=2 * DEADLINE, room=stage.room)
                left = {id: texts.get(id, "not there") for id in ids if texts.get(id) != stage.said[id]}
                if len(left) < len(missing):
                    patience.reschedule(asyncio.get_running_loop().time() + 2 * DEADLINE)
                missing = left
                await asyncio.sleep(len(missing) and 1)
    some = list(missing.items())[:3]
    assert not missing, f"{device} cannot read {len(missing)} of {len(ids)} messages: {some}"


async def until(check, within=DEADLINE):
    """Repeats a question until the answer is yes: for what SDKs do not tell by themselves."""
    async with asyncio.timeout(within):
        while not await check():
            await asyncio.sleep(0.1)
