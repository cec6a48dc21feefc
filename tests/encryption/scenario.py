"""The scenario: users with several devices in an encrypted room. It skips what an SDK does not support."""

import asyncio
import contextlib

from client import DEADLINE
from devices import PASSWORD

MESSAGES = 300
CONCURRENCY = 6


async def encryption(ctx):
    for user in (ctx.alice, ctx.bob, ctx.carol):
        await set_up_user(ctx, user)
    await create_encrypted_room(ctx)
    for me, other in ctx.both_directions():
        await verify_new_device(ctx, me, other)
    for me, other in ctx.both_directions():
        if me.supports("key backup"):
            await recover_on_new_device(ctx, me, other)
    if ctx.alice.supports("cross-signing") and ctx.bob.supports("cross-signing"):
        await verify_each_other(ctx)
    await add_and_remove_member(ctx)
    for me, other in ctx.both_directions():
        await log_out(ctx, me, other)
    for me, other in ctx.both_directions():
        await miss_messages(ctx, me, other)
    for me, other in ctx.both_directions():
        if me.supports("dehydrated devices"):
            await use_dehydrated_device(ctx, me, other)


async def set_up_user(ctx, user):
    with ctx.check(f"{user} registers, logs in and syncs"):
        await user.register()
    if user.supports("cross-signing"):
        with ctx.check(f"{user} sets up cross-signing, secret storage and a key backup"):
            result = await user.first.call("set_up_encryption", password=PASSWORD)
            user.recovery_key = result["recovery_key"]


async def create_encrypted_room(ctx):
    alice, bob = ctx.alice, ctx.bob
    with ctx.check(f"{alice} creates an encrypted room with history visibility `joined`; {bob} joins"):
        created = await alice.first.call("create_encrypted_room", invite=[bob.id])
        ctx.room = created["room"]
        await alice.first.wait_for("membership", room=ctx.room, membership="join")
        await join_room(ctx, bob)
    for me, other in ctx.both_directions():
        with ctx.check(f"{other} decrypts {me}'s message, and the server has only ciphertext"):
            id = await ctx.send_text(me.first, f"{me} sends plaintext")
            await ctx.wait_until_decrypted(id, other.first)
            event = await other.first.call("fetch_event", room=ctx.room, id=id)
            assert event["type"] == "m.room.encrypted" and "plaintext" not in str(event), event


async def join_room(ctx, user):
    """Joins, and waits until all devices of the user, of Alice and of Bob have synced it."""
    await user.first.wait_for("membership", room=ctx.room, membership="invite")
    await user.first.call("join", room=ctx.room)
    for device in user.devices:
        await device.wait_for("membership", room=ctx.room, membership="join")
    for device in ctx.devices():
        await device.wait_for("member", room=ctx.room, user=user.id, membership="join")


async def wait_until_known(device, *observers):
    """Waits until all these devices know `device`."""
    for observer in observers:
        await wait_until(lambda: knows(observer, device))


async def knows(observer, device):
    return await knows_id(observer, device.user, device.id)


async def knows_id(observer, user, device):
    return device in await observer.call("devices", user=user)


async def verify_new_device(ctx, me, other):
    with ctx.check(f"{me} adds a device, and all others learn of it"):
        old, new = me.first, await me.add_device()
        await wait_until_known(new, old, *other.devices)
        await wait_until_known(old, new)
    with ctx.check(f"both devices of {me} show the same seven emoji, and verify each other"):
        await old.call("verify", user=me.id, device=new.id)
        await compare_emoji(old, new)
    if me.supports("cross-signing"):
        with ctx.check(f"{me}'s new device is cross-signed, and has received the account's secrets"):
            await wait_until(lambda: new.call("has_secrets"))
            await wait_until(lambda: is_signed(old, new))
        if other.supports("cross-signing"):
            with ctx.check(f"{other} sees that {me}'s new device is cross-signed"):
                await wait_until(lambda: is_signed(other.first, new))
    await exchange_with_all(ctx, new, other)


async def is_signed(observer, device):
    trust = await observer.call("device_trust", user=device.user, device=device.id)
    return trust is not None and trust["signed"]


async def compare_emoji(requester, responder):
    """Completes a verification by emoji that one device has requested from another."""
    id = (await responder.wait_for("verification_request", user=requester.user))["id"]
    await responder.call("accept", id=id)
    emoji = [(await device.wait_for("emoji", id=id))["emoji"] for device in (requester, responder)]
    assert emoji[0] == emoji[1] and len(emoji[0]) == 7, emoji
    for device in (requester, responder):
        await device.call("confirm", id=id)
    await requester.wait_for("verified", user=responder.user, device=responder.id)
    await responder.wait_for("verified", user=requester.user, device=requester.id)


async def exchange_with_all(ctx, new, other):
    with ctx.check(f"{new} and all other devices decrypt messages of each other"):
        for device in other.devices:
            await ctx.exchange_messages(device, new)
        await ctx.exchange_messages(new, *(device for device in ctx.devices() if device is not new))


async def recover_on_new_device(ctx, me, other):
    with ctx.check(f"all room keys of {me} are in the backup"):
        await me.first.call("wait_for_backup")
    with ctx.check(f"{me} adds a device, verifies it by the recovery key, and restores the backup"):
        new = await me.add_device()
        undecrypted = [id for id, text in (await new.call("decrypted_history", room=ctx.room)).items() if text is None]
        assert undecrypted, "everything was decrypted without the backup"
        restored = await new.call("recover", recovery_key=me.recovery_key)
        assert restored["total"] == restored["imported"] > 0, restored
        await wait_until_known(new, *other.devices)
        await wait_until(lambda: is_signed(me.first, new))
    with ctx.check(f"it decrypts all {len(ctx.sent)} earlier messages"):
        await wait_until_all_decrypted(ctx, new, ctx.sent)
    await exchange_with_all(ctx, new, other)


async def verify_each_other(ctx):
    alice, bob = ctx.alice, ctx.bob
    with ctx.check(f"{alice} and {bob} see the same seven emoji in the room, and verify each other"):
        await alice.first.call("verify_user", user=bob.id, room=ctx.room)
        await compare_emoji(alice.first, bob.first)
    for me, other in ctx.both_directions():
        with ctx.check(f"every device of {me} trusts {other}"):
            for device in me.devices:
                await wait_until(lambda: device.call("trusts_user", user=other.id))


async def add_and_remove_member(ctx):
    alice, carol = ctx.alice, ctx.carol
    with ctx.check(f"{carol} is invited and joins later"):
        earlier = list(ctx.sent)
        await alice.first.call("invite", room=ctx.room, user=carol.id)
        await join_room(ctx, carol)
        await wait_until_known(carol.first, *ctx.devices())
    with ctx.check(f"{carol} and the others decrypt messages of each other"):
        for device in ctx.devices():
            await ctx.exchange_messages(device, carol.first)
        await ctx.exchange_messages(carol.first, *ctx.devices())
    with ctx.check(f"{carol} cannot decrypt earlier events"):
        for id in earlier:
            event = await alice.first.call("fetch_event", room=ctx.room, id=id)
            assert await carol.first.call("decrypt", event=event) is None, event
    with ctx.check(f"{alice} kicks {carol}"):
        await alice.first.call("kick", room=ctx.room, user=carol.id)
        for device in ctx.devices():
            await device.wait_for("member", room=ctx.room, user=carol.id, membership="leave")
        await carol.first.wait_for("membership", room=ctx.room, membership="leave")
    with ctx.check(f"{carol} cannot decrypt later events; all others can"):
        for device in ctx.devices():
            id = await ctx.send_text(device, f"{device} sends after the kick")
            others = [other for other in ctx.devices() if other is not device]
            await ctx.wait_until_decrypted(id, *others)
            event = await others[0].call("fetch_event", room=ctx.room, id=id)
            assert await others[0].call("decrypt", event=event) == ctx.sent[id]
            assert await carol.first.call("decrypt", event=event) is None, f"{carol} has the key of {device}"


async def log_out(ctx, me, other):
    with ctx.check(f"{me} logs out a device, and all others see its removal"):
        removed = me.devices.pop()
        await removed.call("logout")
        await removed.stop()
        for device in ctx.devices():
            await wait_until(lambda: has_forgotten(device, removed))
    with ctx.check("the remaining devices decrypt messages of each other"):
        await ctx.exchange_messages(me.first, *other.devices)
        await ctx.exchange_messages(other.first, *me.devices)


async def has_forgotten(observer, device):
    return not await knows(observer, device)


async def miss_messages(ctx, me, other):
    """`me` does not sync, or its server is down if `other` is on another one. In that case only the earlier
    device sends: a new device cannot claim one-time keys from a server that is down."""
    on_other_server = me.server is not other.server
    absence = f"{me}'s server is down" if on_other_server else f"{me} does not sync"
    sent = []
    with ctx.check(f"{absence} while {other} adds a device and sends {MESSAGES} messages"):
        if on_other_server:
            await asyncio.to_thread(me.server.stop)
        else:
            for device in me.devices:
                await device.call("pause")
        new = await other.add_device()
        await wait_until_known(new, other.first)
        await new.wait_for("membership", room=ctx.room, membership="join")
        senders = (other.first,) if on_other_server else (other.first, new)
        numbers = iter(range(MESSAGES))

        async def send(device):
            for number in numbers:
                sent.append(await ctx.send_text(device, f"{device} sends meanwhile: {number}"))

        async with asyncio.TaskGroup() as group:
            for worker in range(CONCURRENCY):
                group.create_task(send(senders[worker % len(senders)]))
    with ctx.check(f"{me} is back, and every device of {me} decrypts all of them"):
        if on_other_server:
            await asyncio.to_thread(me.server.start)
            await asyncio.gather(*(device.call("retry_now") for device in me.devices))
        else:
            for device in me.devices:
                await device.call("resume")
        for device in me.devices:
            await wait_until_all_decrypted(ctx, device, sent)
    with ctx.check(f"{me} knows the new device, and both devices of {other} decrypt {me}'s messages"):
        await wait_until_known(new, *me.devices)
        for device in me.devices:
            await ctx.exchange_messages(device, *other.devices)
        await ctx.exchange_messages(new, *me.devices)


async def use_dehydrated_device(ctx, me, other):
    with ctx.check(f"{me} creates a dehydrated device, and {other} learns of it"):
        dehydrated = await me.first.call("dehydrate_device")
        assert dehydrated["messages"] == 0, dehydrated
        for device in other.devices:
            await wait_until(lambda: knows_id(device, me.id, dehydrated["device"]))
    with ctx.check(f"{me} logs out all devices, and {other} sends messages"):
        while me.devices:
            removed = me.devices.pop()
            await removed.call("logout")
            await removed.stop()
            for device in other.devices:
                await wait_until(lambda: has_forgotten(device, removed))
        sent = [
            await ctx.send_text(device, f"{device} sends to the dehydrated device")
            for device in other.devices
            for _ in range(3)
        ]
    with ctx.check(f"{me} logs in, rehydrates the device, and decrypts the messages"):
        new = await me.add_device()
        await new.call("recover", recovery_key=me.recovery_key)
        rehydrated = await new.call("dehydrate_device")
        assert rehydrated["keys"] == len(other.devices) and rehydrated["device"] != dehydrated["device"], rehydrated
        await wait_until_all_decrypted(ctx, new, sent)
        for device in other.devices:
            await wait_until(lambda: knows_id(device, me.id, rehydrated["device"]))
            assert not await knows_id(device, me.id, dehydrated["device"])
    await exchange_with_all(ctx, new, other)


async def wait_until_all_decrypted(ctx, device, ids):
    """Waits until a device has decrypted all these events in its history. The timeout starts again whenever
    more of them are decrypted."""
    missing = dict.fromkeys(ids)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2 * DEADLINE) as timeout:
            while missing:
                texts = await device.call("decrypted_history", within=2 * DEADLINE, room=ctx.room)
                still_missing = {id: texts.get(id, "missing") for id in ids if texts.get(id) != ctx.sent[id]}
                if len(still_missing) < len(missing):
                    timeout.reschedule(asyncio.get_running_loop().time() + 2 * DEADLINE)
                missing = still_missing
                await asyncio.sleep(len(missing) and 1)
    some = list(missing.items())[:3]
    assert not missing, f"{device} cannot decrypt {len(missing)} of {len(ids)} messages: {some}"


async def wait_until(check, within=DEADLINE):
    """Repeats `check` until it returns a true value. For changes that the SDKs do not report."""
    async with asyncio.timeout(within):
        while not await check():
            await asyncio.sleep(0.1)
