"""What is carried out without the lock: in its order, by one thread, and whatever goes wrong with some of it."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from bgpy.tasks.workspace.calls import Call
from bgpy.tasks.workspace.instructions import Kill
from bgpy.tasks.workspace.jobs import JobRecord, JobState
from bgpy.tasks.workspace.ledger import MAX_UNKEPT_VALUE
from bgpy.tasks.workspace.outbox import Outbox, Tell, Waiters
from bgpy.tasks.workspace.values import Packed, Value

RECORD = JobRecord("w", 3, "script", "x")


def test_instructions_are_carried_out_in_their_order_also_those_that_come_meanwhile() -> None:
    lock, done = threading.Lock(), []

    def carry_out(instruction: Any, backend: object) -> None:
        assert not lock.locked()
        done.append(instruction.number)
        if instruction.number == 1:
            with lock:
                outbox.put(Kill(3), None)
            outbox.empty()  # another one does it already: this one
            assert done == [1]

    outbox = Outbox(lock, carry_out)
    with lock:
        for number in (1, 2):
            outbox.put(Kill(number), None)
    outbox.empty()
    assert done == [1, 2, 3]
    outbox.empty()
    assert done == [1, 2, 3]


def test_one_that_fails_does_not_keep_the_others_from_being_carried_out(caplog: pytest.LogCaptureFixture) -> None:
    lock, told = threading.Lock(), []

    def carry_out(instruction: object, backend: object) -> None:
        raise RuntimeError("not this one")

    outbox = Outbox(lock, carry_out)
    with lock:
        outbox.put(Kill(1), None)
        outbox.put_all([Tell(told.append, RECORD)])
    with caplog.at_level(logging.ERROR, "bgpy.workspace"):
        outbox.empty()
    assert told == [RECORD]
    assert "Could not Kill(number=1)" in caplog.text


@pytest.mark.parametrize(("kept", "keeps", "large", "lets_go"), [(1, 1, 0, 1), (1, 0, 1, 0), (0, 1, 0, 0), (0, 0, 1, 1)])
def test_who_lets_go_what_is_large_comes_behind_all_that_wait(kept: int, keeps: int, large: int, lets_go: int) -> None:
    value = Value(None, Packed(bytes(MAX_UNKEPT_VALUE + 1 if large else 1)))
    call = Call("module:Host", "predict", {}, kept=bool(kept))
    record = JobRecord("w", 3, "predict", "", state=JobState.DONE, value=value, call=call)
    let_go, then = (lambda _: None), (lambda _: None)
    waiters = Waiters(let_go, bool(keeps))
    waiters.add(3, then)
    assert waiters.settle(record) == [Tell(then, record), *([Tell(let_go, record)] if lets_go else [])]
    assert waiters.settle(record) == ([Tell(let_go, record)] if lets_go else [])
