"""From a package in a clean system to two servers that federate, by hearth's commands alone."""

import json
import time

from certificates import wait_until
from owned import ALICE, BOB

LIMIT = 600  # seconds


def federate(alice, bob):
    for owner in (alice, bob):
        owner.log_in()
    room = alice.request("POST", "/createRoom", {"preset": "private_chat", "invite": [bob.user_id]})["room_id"]

    def is_invited():
        return room in bob.request("GET", "/sync?timeout=1000")["rooms"].get("invite", {})

    wait_until(is_invited, "no invitation arrives")
    bob.request("POST", f"/rooms/{room}/join", {})
    for sender, reader in [(bob, alice), (alice, bob)]:
        text = f"hello from {sender.name}"
        sender.request("PUT", f"/rooms/{room}/send/m.room.message/1", {"msgtype": "m.text", "body": text})
        wait_until(lambda: reader.sees(room, text), f"{reader.name} does not get {text!r}")


def run(world, checks):
    """The two servers."""
    alice = world.own(ALICE, notary=BOB.name, is_service=False)
    bob = world.own(BOB, notary=ALICE.name, is_service=True)
    started = time.monotonic()
    with checks.check(f"{alice.name} is set up from the package by commands alone, without a service manager"):
        alice.install_with_certificate()
    with checks.check(f"{bob.name} is set up from the package by commands alone, as a service"):
        bob.install_with_certificate()
        assert bob.system.systemctl_calls()[-2:] == [
            # That socket is for [::]:443, and this server listens elsewhere.
            "--quiet disable --now hearth-tls.socket",
            "--quiet enable --now hearth.service",
        ], bob.system.systemctl_calls()
    with checks.check("both get their certificates by themselves"):
        for owner in (alice, bob):
            wait_until(owner.has_certificate, f"{owner.name} has no certificate")
    with checks.check("commands reach a server in another PID namespace, as from one container to another"):
        status = json.loads(bob.system.run("unshare", "--pid", "--fork", "hearth", "status", "--json"))
        # Only the running server knows that.
        assert status["queues"] is not None, status
    with checks.check("their users log in and talk with each other over the federation"):
        federate(alice, bob)
    seconds = time.monotonic() - started
    with checks.check(f"that took {seconds:.0f} seconds, of at most {LIMIT}"):
        assert seconds <= LIMIT
    return alice, bob
