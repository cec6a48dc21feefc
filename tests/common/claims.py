"""Claims: what a scenario shows, each printed as it turns out."""

import asyncio
import contextlib


class Failed(Exception):
    """A claim does not hold; the rest of the scenario makes no sense any more."""


class Claims:
    def __init__(self):
        self.passed = 0
        self.failed = 0

    @contextlib.contextmanager
    def claim(self, text):
        """Prints the claim as shown when the block ends, as failed when it raises or runs out of time."""
        try:
            yield
        except asyncio.CancelledError:
            self._fails(text, TimeoutError("the time for the whole scenario is up"))
            raise
        except Exception as error:
            self._fails(text, error)
            raise Failed(text) from error
        self.passed += 1
        print(f"ok {self.passed + self.failed}: {text}", flush=True)

    def _fails(self, text, why):
        while isinstance(why, BaseExceptionGroup):
            why = why.exceptions[0]
        self.failed += 1
        print(f"not ok {self.passed + self.failed}: {text}\n    {type(why).__name__}: {why}", flush=True)


def equal(what, left, right):
    """Raises with the first difference between two lists."""
    for index, (a, b) in enumerate(zip(left, right)):
        if a != b:
            raise AssertionError(f"{what}: at {index} {a} here, {b} there")
    if len(left) != len(right):
        longer, rest = ("here", left[len(right) :]) if len(left) > len(right) else ("there", right[len(left) :])
        raise AssertionError(f"{what}: {len(left)} here, {len(right)} there; only {longer}: {rest[:5]}")


def once(what, items):
    """Raises if an item occurs twice."""
    seen = set()
    for item in items:
        if item in seen:
            raise AssertionError(f"{what}: {item} is there {items.count(item)} times")
        seen.add(item)
