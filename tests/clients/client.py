"""A real client in a process of its own (an *agent*), and what it reports.

Its working directory is the test's: what it keeps there is gone when the test is over.

An agent reads one JSON object per line, `{"number": 7, "command": "join", ...}`, and writes lines of
two kinds: `{"number": 7, "answer": ...}` or `{"number": 7, "error": "..."}` when a command is done, and
`{"saw": "typing", ...}` whenever the SDK noticed something. Commands run side by side.

What agents see (in rooms each with `room`):
- `event`: a timeline event, live and in order: id, type, sender, state_key, content, redacts, txn
- `gap`: the timeline was limited, so events are missing before the next ones; `token` leads back
- `membership`: the user's own membership, with the room's name as the SDK makes it up
- `member`: anybody's membership with name and avatar
- `edited`, `reacted`, `redacted`: what became of the event `id`
- `typing`, `receipt`, `unread`: the last with the number that the SDK shows
- `unsent`: a request broke off and is being repeated
- of encryption: `secret` (an event that could be read, now or later, with sender and body), `unreadable`,
  and of verifications under way `asked`, `emoji`, `verified` (with user and device of the other end)
- `trouble`: something that must not happen; it fails the scenario
"""

import asyncio
import json
import pathlib

HERE = pathlib.Path(__file__).parent
COMMANDS = {
    "nio": [HERE / ".venv/bin/python", HERE / "nio/agent.py"],
    "js": ["node", HERE / "js/agent.mjs"],
}
ENCRYPTED = {
    "nio": [HERE / ".venv/bin/python", HERE / "nio/encrypted.py"],
    "js": ["node", HERE / "js/encrypted.mjs"],
}
# What an SDK cannot do; a scenario does not ask for that.
LACKS = {
    "nio": {"cross-signing", "key backup", "dehydrated devices"},
    "js": set(),
}
DEADLINE = 30
# How many events of a room a sync tells at once; where more have happened, it leaves a gap.
SYNC_LIMIT = 200


class Trouble(Exception):
    """A client reported something that must not happen, or did not see what it had to in time."""


class Client:
    def __init__(self, name, kind, directory, commands=COMMANDS):
        self.name = name
        self.kind = kind
        self.stderr = directory / f"{name}-{kind}.log"
        self.seen = []
        self.user = None
        self._command = commands[kind]
        self._calls = {}
        self._watchers = []
        self._troubled = None
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
        """Has the client carry out a command and returns its answer."""
        if self._troubled:
            raise Trouble(self._troubled)
        self._number += 1
        answer = asyncio.get_running_loop().create_future()
        self._calls[self._number] = answer
        line = json.dumps({"number": self._number, "command": command, **fields})
        self._process.stdin.write(line.encode() + b"\n")
        try:
            async with asyncio.timeout(within):
                return await answer
        except TimeoutError:
            raise Trouble(f"{self.name} got no answer to {line[:300]} within {within} s") from None

    async def sees(self, what, count=1, within=DEADLINE, since=0, **fields):
        """Waits until the client has seen `count` such things since `since` (of `mark`) and returns the last.

        A field given as a function is asked about the value that was seen."""

        def fits(sight):
            return sight["saw"] == what and all(
                wanted(sight.get(key)) if callable(wanted) else sight.get(key) == wanted
                for key, wanted in fields.items()
            )

        if self._troubled:
            raise Trouble(self._troubled)
        found = [sight for sight in self.seen[since:] if fits(sight)]
        if len(found) >= count:
            return found[count - 1]
        watcher = [fits, count - len(found), asyncio.get_running_loop().create_future()]
        self._watchers.append(watcher)
        try:
            async with asyncio.timeout(within):
                return await watcher[2]
        except TimeoutError:
            known = {key: wanted for key, wanted in fields.items() if not callable(wanted)}
            raise Trouble(
                f"{self.name} waited {within} s for {what} {known}; {watcher[1]} of {count} missing"
            ) from None
        finally:
            self._watchers.remove(watcher)

    def mark(self):
        """The present, to be given as `since`."""
        return len(self.seen)

    def timeline(self, room, since=0):
        """The events of a room as they came in through sync."""
        return [s for s in self.seen[since:] if s["saw"] == "event" and s["room"] == room]

    async def _read(self):
        while line := await self._process.stdout.readline():
            message = json.loads(line)
            if "saw" in message:
                self._notice(message)
            else:
                answer = self._calls.pop(message["number"])
                if answer.done():
                    continue
                if "error" in message:
                    answer.set_exception(Trouble(f"{self.name}: {message['error']}"))
                else:
                    answer.set_result(message["answer"])
        self._fail(f"{self.name}'s client ended")

    def _notice(self, sight):
        self.seen.append(sight)
        if sight["saw"] == "trouble":
            self._fail(f"{self.name}: {sight['what']}")
        for watcher in self._watchers:
            if watcher[0](sight):
                watcher[1] -= 1
                if watcher[1] == 0 and not watcher[2].done():
                    watcher[2].set_result(sight)

    def _fail(self, why):
        self._troubled = self._troubled or why
        waiting = [*self._calls.values(), *(watcher[2] for watcher in self._watchers)]
        for future in waiting:
            if not future.done():
                future.set_exception(Trouble(self._troubled))
