"""Checks of a scenario. Each is printed as a TAP line."""

import asyncio
import contextlib


class CheckFailed(Exception):
    """A check failed. The rest of the scenario depends on it."""


class Checks:
    def __init__(self):
        self.passed = 0
        self._failures = []

    @property
    def failed(self):
        return len(self._failures)

    @contextlib.contextmanager
    def check(self, text):
        """Prints `ok` at the end of the block, `not ok` if the block raises or is cancelled."""
        try:
            yield
        except asyncio.CancelledError:
            self._fail(text, TimeoutError("timeout of the whole scenario"))
            raise
        except Exception as error:
            self._fail(text, error)
            raise CheckFailed(text) from error
        self.passed += 1
        print(f"ok {self.passed + self.failed}: {text}", flush=True)

    def _fail(self, text, error):
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        failure = f"{text}\n    {type(error).__name__}: {error}"
        self._failures.append(failure)
        print(f"not ok {self.passed + self.failed}: {failure}", flush=True)

    def summarize(self):
        """Prints the failures again, since a log may be kept only in part, and the counts."""
        for failure in self._failures:
            print(f"failed: {failure[:2000]}")
        print(f"{self.passed} passed, {self.failed} failed")


def assert_equal_lists(what, left, right):
    """Raises `AssertionError` with the first difference."""
    for index, (a, b) in enumerate(zip(left, right)):
        if a != b:
            raise AssertionError(f"{what}: at index {index} {a} left, {b} right")
    if len(left) != len(right):
        longer, surplus = ("left", left[len(right) :]) if len(left) > len(right) else ("right", right[len(left) :])
        raise AssertionError(f"{what}: {len(left)} left, {len(right)} right; only {longer}: {surplus[:5]}")


def assert_unique(what, items):
    """Raises `AssertionError` if an item occurs twice."""
    seen = set()
    for item in items:
        if item in seen:
            raise AssertionError(f"{what}: {item} occurs {items.count(item)} times")
        seen.add(item)


def print_log_ends(directory, lines=15):
    for log in sorted([*directory.glob("*.log"), *directory.glob("*/*.log")]):
        print(f"--- the end of {log.relative_to(directory)}")
        for line in log.read_text(errors="replace").splitlines()[-lines:]:
            print(line[:300])
