"""Random liars: servers that send events after events that do not exist, and answer any request with any
selection of real and forged events. Nobody's membership or power and nothing of a room's visibility may change
unless Synapse's state resolution over the true events says so (`judged_room.py`).

`HEARTH_LIARS` is the number of liars of each room version, `HEARTH_LIARS_SEED` the seed of the first (by default
1,000 times the room version)."""

import asyncio
import collections
import contextlib
import os
import random
import string

from aiohttp import web
from bad_events import MAX_INTEGER
from judged_room import CREATE, LEVELS, MEMBER, RULES, VISIBILITY, JudgedRoom, WitnessOut
from liar import Liar
from user import RequestFailed, User, eventually

LIARS = int(os.environ.get("HEARTH_LIARS", 8))
STEPS = 14
CONCURRENT = 16
TEST_STATE, MESSAGE = "test.state", "m.room.message"
# In one of so many rooms, all local users leave, and one joins again through the liar
REJOIN_EVERY = 3


async def random_liars(ctx):
    first = int(os.environ.get("HEARTH_LIARS_SEED", 1000 * int(ctx.version)))
    users = [ctx.host, *(User(ctx.host.server, f"{name}-{ctx.version}") for name in ("ben", "dan"))]
    slots = asyncio.Semaphore(CONCURRENT)
    outcomes = collections.Counter()
    try:
        with ctx.check(f"{LIARS} random liars change nothing that they may not (seeds from {first})"):
            await asyncio.gather(*(user.start(sync=False) for user in users[1:]))
            # The liars go on to respond, since events of theirs are queued.
            async with contextlib.AsyncExitStack() as stack:
                bob = await stack.enter_async_context(Liar(ctx.environment.certificates, "bob"))
                sending = asyncio.Lock()

                async def run(seed):
                    async with slots:
                        liar = await stack.enter_async_context(Liar(ctx.environment.certificates))
                        room = RandomLies(ctx, users, bob, sending, liar, seed)
                        try:
                            await room.run()
                        except Exception as error:
                            raise AssertionError(f"seed {seed}: {error!r}") from error
                        outcomes.update(room.outcomes)

                runs = [run(seed) for seed in range(first, first + LIARS)]
                failures = [result for result in await asyncio.gather(*runs, return_exceptions=True) if result]
            print(f"    {dict(outcomes)}", flush=True)
            assert not failures, f"{len(failures)} of {LIARS}: " + "; ".join(map(str, failures[:3]))
            assert outcomes["after missing events"] or LIARS < 50, "no lie was accepted after missing events"
    finally:
        for user in users[1:]:
            await user.stop()


class RandomLies(JudgedRoom):
    def __init__(self, ctx, users, bob, sending, liar, seed):
        super().__init__(ctx, users, bob, sending, liar)
        self.seed = seed
        self.rng = random.Random(seed)
        # The liar's events that it has not sent
        self.hidden = []
        # The joins of the host through the liar
        self.joins = set()
        self.outcomes = collections.Counter()
        self._requests = collections.Counter()

    async def run(self):
        try:
            await self.lie_and_check()
        except WitnessOut:
            self.outcomes["bob put out by a true fork"] += 1

    async def lie_and_check(self):
        await self.create()
        await self.check()
        for name in ("event", "event_auth", "state", "state_ids", "backfill", "get_missing_events"):
            self.liar.overrides[name] = self.answer
        for _ in range(STEPS):
            await self.step()
            await self.go_on()
            await self.check()
        await self.end()
        if self.seed % REJOIN_EVERY == 0:
            await self.rejoin()

    async def end(self):
        """All true events are sent; the state must be exactly the oracle's."""
        sent = list(self.unsent)
        await self.send_as_bob()
        for _ in range(600):
            await self.go_on()
            if set(sent) <= self.history(self.last).keys():
                break
            await asyncio.sleep(0.1)
        else:
            raise AssertionError("bob's events do not reach the room")
        await self.check(lenient=False)
        # A message of the host's server has only accepted events as prev_events.
        made_here = [event for event in self.events.values() if event["sender"] == self.host.id]
        accepted = {id for event in made_here for id in event["prev_events"] if self.is_of_liar(id)}
        gaps = accepted - self.history(self.last).keys()
        self.outcomes.update({"lies accepted": len(accepted), "after missing events": len(gaps)})

    async def step(self):
        rng = self.rng
        action = rng.random()
        if action < 0.2:
            await self.act_as_local()
        elif action < 0.3:
            await self.act_as_bob(*self.moderation([self.liar.user, *self.ghosts(), self.users[2].id], self.bob.user))
        elif action < 0.35:
            await self.send_as_bob()
        elif action < 0.4:
            with contextlib.suppress(RequestFailed):
                await self.host.request("GET", "rooms", self.id, "messages", dir="b", limit=100)
        elif action < 0.5 and self.hidden:
            await self.send(self.hidden.pop(rng.randrange(len(self.hidden))))
        else:
            for _ in range(rng.randint(1, 3)):
                self.hidden.append(self.lie(unknown=0.5))
            await self.send(self.lie(unknown=0.05))

    # The truth

    def ghosts(self):
        return [f"@ghost{number}:{self.liar.name}" for number in range(3)]

    def moderation(self, targets, sender):
        """A random action of a moderator: type, content and state key."""
        rng = self.rng
        target = rng.choice(targets)
        if target == self.liar.user:
            # The liar's server stays in the room.
            return MESSAGE, {"msgtype": "m.text", "body": "moderation"}
        action = rng.randrange(6)
        if action == 0:
            state = self.states[-1]
            levels = self.events[state[LEVELS, ""]]["content"]
            users = levels["users"] | {self.users[2].id: rng.choice((0, 10, 25)), self.users[1].id: 50}
            return LEVELS, levels | {"users": users}, ""
        if action == 1:
            return RULES, {"join_rule": rng.choice(("public", "invite"))}, ""
        if action == 2:
            return VISIBILITY, {"history_visibility": rng.choice(("shared", "invited"))}, ""
        return MEMBER, {"membership": rng.choice(("ban", "ban", "leave"))}, target

    async def act_as_local(self):
        rng = self.rng
        user = rng.choice(self.users)
        with contextlib.suppress(RequestFailed):
            if user is self.users[2]:
                await (user.join(self.id) if rng.random() < 0.7 else user.change_membership("leave", self.id))
                return
            type, content, *key = self.moderation([*self.ghosts(), self.users[2].id], user.id)
            if type == MEMBER:
                action = {"ban": "ban", "leave": rng.choice(("kick", "unban"))}[content["membership"]]
                await user.request("POST", "rooms", self.id, action, body={"user_id": key[0]})
            else:
                await user.set_state(self.id, type, content)

    # The lies

    def lie(self, unknown):
        rng = self.rng
        ends = [self.last] if rng.random() < 0.6 else []
        if self.hidden and rng.random() < 0.7:
            ends.append(rng.choice(self.hidden))
        if rng.random() < 0.3:
            ends.append(rng.choice(list(self.events)))
        if not ends or rng.random() < unknown:
            ends.append("$" + "".join(rng.choices(string.ascii_letters, k=43)))
        depths = [self.events[id]["depth"] for id in ends if id in self.events]
        depth = self.any_depth(max(depths, default=self.events[self.last]["depth"]))
        room = self.of_liar
        room.state = self.states[-1] if rng.random() < 0.8 else self.any_state()
        sender = rng.choice([self.liar.user, self.liar.user, *self.ghosts()])
        type, content, key = self.forged(sender)
        return self.add(room.build(type, content, key, sender=sender, prev_events=sorted(set(ends)), depth=depth))

    def any_depth(self, before):
        """The right depth of an event after one of depth `before`, or any other."""
        right = min(before + 1, MAX_INTEGER)
        return self.rng.choice((right, right, right, 1, before, min(before + 100, MAX_INTEGER), 10**9, MAX_INTEGER))

    def forged(self, sender):
        rng = self.rng
        number = {"n": rng.randrange(1 << 20)}
        match rng.randrange(10):
            case 0:
                users = [user.id for user in self.users] + [self.bob.user, *self.ghosts()]
                membership = rng.choice(("leave", "ban", "invite", "join"))
                return MEMBER, number | {"membership": membership}, rng.choice(users)
            case 1 | 2:
                membership = "leave" if sender != self.liar.user and rng.random() < 0.3 else "join"
                return MEMBER, number | {"membership": membership}, sender
            case 3:
                return LEVELS, number | {"users": {sender: 100}, "users_default": rng.randrange(60)}, ""
            case 4:
                return VISIBILITY, number | {"history_visibility": "world_readable"}, ""
            case 5:
                return RULES, number | {"join_rule": "public"}, ""
            case 6:
                return TEST_STATE, number, sender
            case _:
                return MESSAGE, number | {"msgtype": "m.text", "body": "a lie"}, None

    async def send(self, id):
        status, response = await self.liar.send(self.target, [self.events[id]])
        assert status == 200, (status, response)
        # Mostly before the room goes on. Many are dropped.
        if self.rng.random() < 0.7:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    while (await self.bob.request(self.target, "GET", "event", id))[0] != 200:
                        await asyncio.sleep(0.02)

    # The answers

    async def answer(self, request):
        name, *arguments = self.liar.name_and_arguments(request)
        self._requests[name] += 1
        rng = random.Random(f"{self.seed} {name} {self._requests[name]}")
        body = await request.json() if request.can_read_body else {}
        if name == "event":
            real = arguments[0] if rng.random() < 0.95 else self.any_event(rng)
            found = [self.events[real]] if real in self.events else []
            if not found:
                return web.json_response({"errcode": "M_NOT_FOUND", "error": "not found"}, status=404)
            return web.json_response(self.liar.transaction(found))
        if name == "get_missing_events":
            return web.json_response({"events": self.some_history(rng, body["latest_events"])})
        if name == "backfill":
            latest = request.query.getall("v")
            latest = [self.events[id] for id in latest if id in self.events]
            ids = [self.event_id(event) for event in latest]
            return web.json_response(self.liar.transaction(latest + self.some_history(rng, ids)))
        state = self.claim(rng, self.events.get(request.query.get("event_id"), {}).get("prev_events", []))
        chain = self.auth_chain(state)
        if rng.random() < 0.1:
            chain = rng.sample(chain, len(chain) // 2)
        if name == "state_ids":
            return web.json_response({"pdu_ids": state, "auth_chain_ids": chain})
        state, chain = ([self.events[id] for id in ids] for ids in (state, chain))
        return web.json_response({"pdus": state, "auth_chain": chain})

    def some_history(self, rng, latest):
        kind = rng.random()
        if kind < 0.4:
            return []
        if kind < 0.8:
            return self.of_liar.missing_events([], latest, rng.randint(1, 10))
        return [self.events[self.any_event(rng)] for _ in range(rng.randint(1, 5))]

    def any_event(self, rng):
        return rng.choice(list(self.events))

    def any_state(self, rng=None):
        return (rng or self.rng).choice(self.states)

    def claim(self, rng, ends):
        """Any selection of events as the state after `ends`."""
        if "distrust of claimed states" in self.host.server.unsupported:
            return list(self.state_after(*ends).values())
        keep = rng.choice((0, 0.3, 0.7, 0.95, 1))
        # Without these, the liar's own event is not allowed.
        needed = {(CREATE, ""), (MEMBER, self.liar.user)}
        state = {key: id for key, id in self.any_state(rng).items() if key in needed or rng.random() < keep}
        for _ in range(rng.randrange(6)):
            type, key = self.key_of(id := self.any_event(rng))
            if key is not None:
                state[type, key] = id
        return list(state.values())

    def auth_chain(self, ids):
        return sorted(self.event_id(event) for event in self.of_liar.auth_chain(ids))

    # Rejoining

    async def rejoin(self):
        """All local users leave, and one joins again through the liar, which answers with any state. If that
        fails, through bob."""
        rng, host = self.rng, self.host
        await host.set_state(self.id, RULES, {"join_rule": "public"})
        await self.go_on()
        for user in self.users[::-1]:
            with contextlib.suppress(RequestFailed):
                await user.change_membership("leave", self.id)
        self.last = await eventually(self.leave_of_host)
        known = self.state_after(self.last)
        self.states.append(known)
        for _ in range(rng.randrange(3)):
            type, content, *key = self.moderation([*self.ghosts(), self.users[2].id], self.bob.user)
            if type != RULES:
                await self.act_as_bob(type, content, *key)
        ends = [self.last, *self.unsent[-1:]]
        self.liar.overrides |= {"make_join": self.make_join, "send_join": self.send_join}
        true = self.state_after(*ends)
        self.of_bob.state, self.of_bob.extremities = true, set(ends)
        self.of_bob.depth = max(self.events[id]["depth"] for id in ends)
        for server in (self.liar.name, self.bob.name):
            with contextlib.suppress(RequestFailed):
                await host.request("POST", "join", self.id, via=server, server_name=server)
                break
        await self.go_on()
        actual = await self.state_before(self.last)
        join = actual[MEMBER, host.id]
        assert self.membership(join) == "join", self.show(join)
        # After a refusal of the liar's response, bob's server was tried.
        through_liar = join in self.joins
        self.outcomes["rejoins through the liar" if through_liar else "rejoins through bob"] += 1
        expected = known if through_liar else true
        permitted = self.unsent if through_liar else []
        self.compare(actual, [expected | {(MEMBER, host.id): join}], permitted)

    async def leave_of_host(self):
        leaves = [id for id in self.events if self.key_of(id) == (MEMBER, self.host.id) and self.membership(id) == "leave"]
        leaves = [id for id in leaves if self.events[id]["sender"] == self.host.id]
        assert leaves, "the host has not left"
        return leaves[0]

    async def make_join(self, request):
        rng = self.rng
        room, user = self.of_liar, self.host.id
        room.state = self.states[-1] if rng.random() < 0.8 else self.any_state()
        ends = [self.last] if rng.random() < 0.7 else [self.any_event(rng)]
        depth = self.any_depth(max(self.events[id]["depth"] for id in ends))
        event = room.draft(MEMBER, {"membership": "join"}, user, sender=user, prev_events=ends, depth=depth)
        return web.json_response({"room_version": room.version, "event": event})

    async def send_join(self, request):
        event = await request.json()
        self.joins.add(self.event_id(event))
        state = self.claim(self.rng, event["prev_events"])
        state, chain = ([self.events[id] for id in ids] for ids in (state, self.auth_chain(state)))
        response = {"origin": self.liar.name, "event": event, "state": state, "auth_chain": chain}
        return web.json_response(response | {"members_omitted": False, "servers_in_room": [self.liar.name]})
