"""Wait a bounded time for calls that the platform lets wait only for ever."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")


def within(timeout: float | None, work: Callable[[], T], too_late: Callable[[T], None]) -> T | None:
    """Run blocking work in a thread; its result, or None after `timeout` seconds, and then `too_late` undoes what still comes."""
    import threading

    guard, done = threading.Lock(), threading.Event()
    results: list[T] = []
    errors: list[BaseException] = []
    given_up = False

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that waits
            errors.append(error)
            done.set()
            return
        with guard:
            results.append(result)
            done.set()
            if not given_up:
                return
        too_late(result)

    # A daemon: neither a lock that never comes nor a pipe that stays silent may keep the interpreter from ending.
    threading.Thread(target=run, name="bgpy-wait", daemon=True).start()
    done.wait(None if timeout is None else min(max(timeout, 0), threading.TIMEOUT_MAX))
    with guard:
        given_up = not done.is_set()
    if errors:
        raise errors[0]
    return None if given_up else results[0]
