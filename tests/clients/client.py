"""A client SDK in its own process (an *agent*), and its observations.

Its working directory is a temporary directory of the test.

An agent reads one JSON object per line, `{"number": 7, "command": "join", ...}`, and writes lines of
two kinds: `{"number": 7, "result": ...}` or `{"number": 7, "error": "..."}` when a command is done, and
`{"observed": "typing", ...}` when the SDK reported something. Commands run concurrently.

Observations (those of a room have `room`):
- `event`: a timeline event, live and in order: id, type, sender, state_key, content, redacts, txn
- `gap`: the timeline was limited, so events are missing before the next ones; `token` is for `/messages`
- `membership`: the user's own membership, with the room's name as the SDK calculates it
- `member`: the membership of any user, with name and avatar
- `edited`, `reacted`, `redacted`: a change of the event `id`
- `typing`, `receipt`, `unread` (with the count of the SDK)
- `retried`: a request failed and is repeated
- `unrecognized`: the server does not serve the endpoint at `path` (matrix-js-sdk only)
- encryption: `decrypted` (at once or later, with sender and body), `undecryptable`
- verification: `verification_request`, `emoji`, `verified` (with user and device of the other side)
- `failure`: something that must not happen; the scenario fails
"""

import asyncio
import json
import pathlib

HERE = pathlib.Path(__file__).parent
COMMANDS = {
    "nio": [HERE / ".venv/bin/python", HERE / "nio/agent.py"],
    "js": ["node", HERE / "js/agent.mjs"],
}
ENCRYPTED_COMMANDS = {
    "nio": [HERE / ".venv/bin/python", HERE / "nio/encrypted.py"],
    "js": ["node", HERE / "js/encrypted.mjs"],
}
# Features that an SDK lacks. Scenarios do not use them.
UNSUPPORTED = {
    "nio": {"cross-signing", "key backup", "dehydrated devices"},
    "js": set(),
}
DEADLINE = 30
# The timeline limit of a sync. More events leave a gap.
SYNC_LIMIT = 200


class ClientFailure(Exception):
    """A client failed, or did not observe something in time."""


class Client:
    def __init__(self, name, kind, directory, commands=COMMANDS):
        self.name = name
        self.kind = kind
        self.stderr = directory / f"{name}-{kind}.log"
        self.observations = []
        self.user = None
        self._command = commands[kind]
        self._calls = {}
        self._watchers = []
        self._failure = None
        self._number = 0

    async def start(self, url):
        with self.stderr.open("ab") as stderr:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                url,
                str(SYNC_LIMIT),
                cwd=self.stderr.parent,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                limit=1 << 26,
            )
        self._reader = asyncio.create_task(self._read())

    async def stop(self):
        self._process.kill()
        await self._process.wait()
        await self._reader

    async def call(self, command, within=DEADLINE, **fields):
        """Executes a command in the client; returns its result."""
        if self._failure:
            raise ClientFailure(self._failure)
        self._number += 1
        result = asyncio.get_running_loop().create_future()
        self._calls[self._number] = result
        line = json.dumps({"number": self._number, "command": command, **fields})
        self._process.stdin.write(line.encode() + b"\n")
        try:
            async with asyncio.timeout(within):
                return await result
        except TimeoutError:
            raise ClientFailure(f"{self.name} got no result of {line[:300]} within {within} s") from None

    async def wait_for(self, what, count=1, within=DEADLINE, since=0, **fields):
        """Waits for `count` observations with these fields since a `position`, and returns the last one.

        A field may be a predicate."""

        def matches(observation):
            return observation["observed"] == what and all(
                expected(observation.get(key)) if callable(expected) else observation.get(key) == expected
                for key, expected in fields.items()
            )

        if self._failure:
            raise ClientFailure(self._failure)
        found = [observation for observation in self.observations[since:] if matches(observation)]
        if len(found) >= count:
            return found[count - 1]
        watcher = [matches, count - len(found), asyncio.get_running_loop().create_future()]
        self._watchers.append(watcher)
        try:
            async with asyncio.timeout(within):
                return await watcher[2]
        except TimeoutError:
            known = {key: expected for key, expected in fields.items() if not callable(expected)}
            raise ClientFailure(
                f"{self.name} waited {within} s for {what} {known}; {watcher[1]} of {count} missing"
            ) from None
        finally:
            self._watchers.remove(watcher)

    def position(self):
        """The current end of the observations, for `since`."""
        return len(self.observations)

    def timeline(self, room, since=0):
        """The events of a room in the order of sync."""
        return [seen for seen in self.observations[since:] if is_event(seen, room)]

    async def _read(self):
        while line := await self._process.stdout.readline():
            message = json.loads(line)
            if "observed" in message:
                self._handle_observation(message)
            else:
                result = self._calls.pop(message["number"])
                if result.done():
                    continue
                if "error" in message:
                    result.set_exception(ClientFailure(f"{self.name}: {message['error']}"))
                else:
                    result.set_result(message["result"])
        self._fail(f"{self.name}'s client exited")

    def _handle_observation(self, observation):
        self.observations.append(observation)
        if observation["observed"] == "failure":
            self._fail(f"{self.name}: {observation['what']}")
        for watcher in self._watchers:
            if watcher[0](observation):
                watcher[1] -= 1
                if watcher[1] == 0 and not watcher[2].done():
                    watcher[2].set_result(observation)

    def _fail(self, reason):
        self._failure = self._failure or reason
        waiting = [*self._calls.values(), *(watcher[2] for watcher in self._watchers)]
        for future in waiting:
            if not future.done():
                future.set_exception(ClientFailure(self._failure))


def is_event(observation, room):
    return observation["observed"] == "event" and observation["room"] == room
