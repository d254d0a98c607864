"""Turns are taken in the order of the tickets, whoever waits how; and nobody waits for a lock that is closed."""

from __future__ import annotations

import random
import threading

import pytest

from bgpy.errors import ServerEndingError
from bgpy.turns import Ticket, TurnLock


def free(lock: TurnLock) -> bool:
    """Tell whether the next ticket would have the turn at once; gives it back."""
    ticket = lock.draw()
    if not ticket.granted:
        assert not ticket.wait(0)
        return False
    with ticket:
        return True


def run_all(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.usefixtures("fast_switches")
def test_turns_are_taken_in_the_order_of_the_tickets() -> None:
    """Python's own lock gives the turn to whoever comes; a client's A and B changed places."""
    lock = TurnLock()
    order: list[int] = []

    def work(number: int, ticket: Ticket) -> None:
        with ticket:
            order.append(number)

    first = lock.draw()
    threads = [threading.Thread(target=work, args=(number, lock.draw())) for number in range(64)]
    random.Random(5).shuffle(threads)
    for thread in threads:
        thread.start()
    with first:
        assert order == []
    for thread in threads:
        thread.join()
    assert order == list(range(64))


@pytest.mark.usefixtures("fast_switches")
def test_one_holds_the_lock_at_a_time_and_in_the_order_in_which_the_tickets_were_drawn() -> None:
    lock, drawing, inside = TurnLock(), threading.Lock(), threading.Lock()
    drawn: list[Ticket] = []
    taken: list[Ticket] = []

    def work() -> None:
        for _ in range(50):
            with drawing:
                ticket = lock.draw()
                drawn.append(ticket)
            with ticket:
                assert inside.acquire(blocking=False), "two hold the lock"
                taken.append(ticket)
                inside.release()

    run_all([threading.Thread(target=work) for _ in range(16)])
    assert taken == drawn
    assert len(taken) == 800
    assert free(lock)


def test_a_turn_is_passed_on_when_its_holder_raises() -> None:
    lock = TurnLock()
    with pytest.raises(ZeroDivisionError), lock.draw():
        raise ZeroDivisionError
    assert free(lock)


@pytest.mark.parametrize("timeout", [0, -1, 0.001])
def test_who_gives_up_waiting_leaves_the_queue(timeout: float) -> None:
    lock = TurnLock()
    held, given_up, behind = lock.draw(), lock.draw(), lock.draw()
    with held:
        assert not given_up.wait(timeout)
    assert behind.granted
    assert not given_up.granted
    with behind:
        pass
    assert free(lock)


def test_a_turn_that_comes_at_the_last_moment_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = TurnLock()
    held, late = lock.draw(), lock.draw()
    give_up = lock.give_up

    def pass_on_first(ticket: Ticket) -> bool:
        lock.release()
        return give_up(ticket)

    monkeypatch.setattr(lock, "give_up", pass_on_first)
    assert held.granted
    assert late.wait(0)
    assert not lock.draw().granted
    lock.release()


def test_a_ticket_with_the_turn_does_not_wait() -> None:
    assert TurnLock().draw().wait(0)
    assert TurnLock().draw().wait()


def test_nobody_comes_after_the_last_ticket() -> None:
    lock = TurnLock()
    first, second = lock.draw(), lock.draw()
    last = lock.close()
    with pytest.raises(ServerEndingError):
        lock.draw()
    with first:
        pass
    with second:
        assert not last.granted
    assert last.wait(0)
    lock.release()
    with pytest.raises(ServerEndingError):
        lock.draw()


def test_closing_a_free_lock_gives_the_turn_at_once() -> None:
    assert TurnLock().close().granted


@pytest.mark.parametrize("timeout", [None, 30.0])
def test_abandoning_refuses_all_who_wait_and_leaves_the_holder_alone(timeout: float | None) -> None:
    lock = TurnLock()
    held = lock.draw()
    refused: list[bool] = []

    def wait(ticket: Ticket) -> None:
        with pytest.raises(ServerEndingError):
            ticket.wait(timeout)
        refused.append(ticket.refused)

    threads = [threading.Thread(target=wait, args=(lock.draw(),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    lock.abandon()
    for thread in threads:
        thread.join()
    assert refused == [True] * 8
    with pytest.raises(ServerEndingError):
        lock.draw()
    with held:
        pass
    lock.abandon()


def test_who_was_refused_before_waiting_hears_it_at_once() -> None:
    lock = TurnLock()
    lock.draw()
    ticket = lock.draw()
    lock.abandon()
    with pytest.raises(ServerEndingError), ticket:
        pytest.fail("a refused ticket got the turn")


def test_who_gives_up_while_the_lock_is_abandoned_hears_that(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = TurnLock()
    lock.draw()
    ticket = lock.draw()
    give_up = lock.give_up

    def abandon_first(late: Ticket) -> bool:
        lock.abandon()
        return give_up(late)

    monkeypatch.setattr(lock, "give_up", abandon_first)
    with pytest.raises(ServerEndingError):
        ticket.wait(0)


@pytest.mark.usefixtures("fast_switches")
def test_no_turn_is_lost_between_those_who_give_up_and_those_who_stay() -> None:
    lock, inside = TurnLock(), threading.Lock()
    ran: list[int] = []

    def work(number: int) -> None:
        for turn in range(100):
            ticket = lock.draw()
            if ticket.wait((number + turn) % 3 * 1e-5 if number % 2 else None):
                assert inside.acquire(blocking=False), "two hold the lock"
                ran.append(number)
                inside.release()
                lock.release()

    run_all([threading.Thread(target=work, args=(number,)) for number in range(12)])
    assert all(ran.count(number) == 100 for number in range(0, 12, 2))
    assert free(lock)


@pytest.mark.usefixtures("fast_switches")
def test_everybody_gets_the_turn_or_a_refusal_when_the_end_comes_in_between() -> None:
    for _ in range(20):
        lock = TurnLock()
        outcomes: list[str] = []

        def work(lock: TurnLock, outcomes: list[str], number: int) -> None:
            try:
                if lock.draw().wait(None if number % 2 else 1e-5):
                    lock.release()
                    outcomes.append("turn")
                else:
                    outcomes.append("late")
            except ServerEndingError:
                outcomes.append("refused")

        threads = [threading.Thread(target=work, args=(lock, outcomes, number)) for number in range(8)]
        for thread in threads[:4]:
            thread.start()
        last = lock.close()
        for thread in threads[4:]:
            thread.start()
        assert last.wait(30)
        lock.abandon()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 8
        assert outcomes.count("refused") >= 4
