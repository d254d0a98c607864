"""Exactly once, the server's side: who may claim a request, and what is kept for those who come back."""

from __future__ import annotations

import threading

import pytest
from support.lanes import END, ME, OK, Link, Server, hello, payload

from bgpy.errors import LocalProtocolError
from bgpy.protocol import lanes
from bgpy.protocol.frames import FLAG_MORE
from bgpy.protocol.handshake import Admission
from bgpy.protocol.lanes import MAX_KEPT_BUFFERS, Answer, Verdict


@pytest.fixture
def server() -> Server:
    return Server()


# Claiming.


def test_a_request_is_fresh_once(server: Server) -> None:
    answer = server.claim(1)
    for _ in range(2):
        assert server.table.claim(server.lane, server.link, 1) == (Verdict.REPLAY, answer)
    assert answer.number == 1
    assert answer.connected


def test_numbers_go_up_and_may_leave_gaps(server: Server) -> None:
    for number in (1, 5, 6, (1 << 64) - 1):
        server.claim(number)
    for number in (0, 1, 5, 6):
        assert server.table.claim(server.lane, server.link, number) == (Verdict.STALE, None)


def test_number_0_is_nobodys(server: Server) -> None:
    assert server.table.claim(server.lane, server.link, 0) == (Verdict.STALE, None)


def test_lanes_and_clients_count_for_themselves(server: Server) -> None:
    for who in (hello(lane=1), hello(b"other" + bytes(11))):
        link = Link()
        _, lane = server.table.attach(who, link, 0.0)
        assert server.table.claim(lane, link, 1)[0] is Verdict.FRESH
    server.claim(1)


@pytest.mark.usefixtures("fast_switches")
def test_of_many_threads_that_claim_a_request_exactly_one_runs_it() -> None:
    """Asked whether it had arrived, and then sent again, it ran twice."""
    server, rounds, count = Server(), 100, 16
    barrier = threading.Barrier(count)
    fresh = [0] * (rounds + 1)
    answers: list[set[int]] = [set() for _ in range(rounds + 1)]

    def work() -> None:
        for number in range(1, rounds + 1):
            barrier.wait(30)
            verdict, answer = server.table.claim(server.lane, server.link, number)
            assert answer is not None
            answers[number].add(id(answer))
            if verdict is Verdict.FRESH:
                fresh[number] += 1
            barrier.wait(30)

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fresh[1:] == [1] * rounds
    assert [len(found) for found in answers[1:]] == [1] * rounds


def test_a_claim_is_one_step(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever claims while another claim is under way waits for it."""
    verdicts: list[Verdict] = []
    inside, thread = [False], threading.Thread(target=lambda: verdicts.append(server.table.claim(server.lane, server.link, 1)[0]))
    made = lanes.Answer

    def make(*arguments: object) -> Answer:
        inside[0] = True
        thread.start()
        assert server.table._mutex.locked()
        assert verdicts == []
        return made(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(lanes, "Answer", make)
    verdicts.append(server.table.claim(server.lane, server.link, 1)[0])
    thread.join()
    assert inside == [True]
    assert verdicts == [Verdict.FRESH, Verdict.REPLAY]


# Fencing.


def test_what_arrives_on_a_fenced_connection_is_not_run(server: Server) -> None:
    """The bytes of the old connection came after the request had been taken up again, and ran it once more."""
    old, new = server.link, Link()
    server.attach(new, resume=True)
    assert (old.fenced, new.fenced) == (1, 0)
    assert server.table.claim(server.lane, old, 1) == (Verdict.FENCED, None)
    server.claim(1, new)
    for number in (1, 2):
        assert server.table.claim(server.lane, old, number) == (Verdict.FENCED, None)
    server.table.acknowledge(server.lane, old, 2)
    assert server.table.claim(server.lane, new, 1)[0] is Verdict.REPLAY


def test_a_connection_that_has_left_claims_nothing(server: Server) -> None:
    server.table.detach(ME, server.lane, server.link, 0.0)
    assert server.table.claim(server.lane, server.link, 1) == (Verdict.FENCED, None)


def test_the_end_of_an_old_connection_leaves_the_new_one_alone(server: Server) -> None:
    old, new = server.link, Link()
    server.attach(new, resume=True)
    server.table.detach(ME, server.lane, old, 0.0)
    assert server.table.claim(server.lane, new, 1)[0] is Verdict.FRESH


def test_a_new_connection_fences_also_where_nothing_is_resumed(server: Server) -> None:
    old, new = server.link, Link()
    answer = server.claim(1)
    server.attach(new)
    assert old.fenced == 1
    answer.send(OK, 0, payload())
    assert old.frames == new.frames == []


def test_a_new_connection_that_has_not_asked_for_the_answer_yet_does_not_get_it_over_the_old_one(server: Server) -> None:
    answer = server.claim(1)
    old = server.link
    server.attach(Link(), resume=True)
    assert not answer.connected
    old.alive = True
    answer.send(OK, 0, payload())
    assert old.frames == []


def test_a_lane_that_nobody_knows_cannot_be_resumed(server: Server) -> None:
    for who in (hello(lane=1, resume=True), hello(b"other" + bytes(11), resume=True)):
        link = Link()
        admission, lane = server.table.attach(who, link, 0.0)
        assert admission is Admission.LANE_UNKNOWN
        assert server.table.claim(lane, link, 1) == (Verdict.FENCED, None)
    # Asking has not made it known.
    assert server.table.attach(hello(lane=1, resume=True), Link(), 0.0)[0] is Admission.LANE_UNKNOWN


# Answers on their way.


def test_parts_are_numbered_and_the_last_one_ends_the_answer(server: Server) -> None:
    answer = server.claim(7)
    answer.send(OK, FLAG_MORE, payload(b"a"))
    answer.send(OK, FLAG_MORE, payload(b"b", b"buffer"))
    assert not answer.ended
    answer.send(END, 0, payload(b""))
    assert answer.ended
    assert server.link.frames == [
        (OK, FLAG_MORE, 0, 7, b"a", []),
        (OK, FLAG_MORE, 1, 7, b"b", [b"buffer"]),
        (END, 0, 2, 7, b"", []),
    ]
    for _ in range(2):
        with pytest.raises(LocalProtocolError):
            answer.send(OK, 0, payload())
    assert len(server.link.frames) == 3


def test_a_running_request_moves_its_answer_to_who_comes_back(server: Server) -> None:
    answer = server.claim()
    new = server.come_back()
    assert new.frames == []
    assert answer.connected
    answer.send(OK, 0, payload())
    assert new.parts == [(0, b"answer")]


def test_a_done_request_sends_its_kept_answer_as_often_as_it_is_asked(server: Server) -> None:
    answer = server.claim()
    answer.send(OK, 0, payload(b"p", b"buffer"))
    for _ in range(3):
        assert server.come_back().frames == [(OK, 0, 0, 1, b"p", [b"buffer"])]
        assert not answer.connected


def test_an_answer_while_the_client_is_away_is_kept(server: Server) -> None:
    answer = server.claim()
    server.link.alive = False
    answer.send(OK, FLAG_MORE, payload(b"a"))
    assert not answer.connected
    answer.send(OK, 0, payload(b"b"))
    assert server.come_back().parts == [(0, b"a"), (1, b"b")]


@pytest.mark.parametrize("have", range(4))
def test_a_stream_goes_on_behind_the_parts_that_the_client_has(server: Server, have: int) -> None:
    answer = server.claim()
    for text in (b"0", b"1", b"2"):
        answer.send(OK, FLAG_MORE, payload(text))
    new = server.come_back(have=have)
    answer.send(OK, 0, payload(b"3"))
    assert new.parts == [(part, b"%d" % part) for part in range(have, 4)]


def test_parts_that_were_never_sent_cannot_be_had(server: Server) -> None:
    server.claim().send(OK, FLAG_MORE, payload())
    server.come_back(have=2).lost()


def test_the_buffers_that_are_kept_are_copies(server: Server) -> None:
    """A kept view is live memory: the task changes it, and who comes back gets something else."""
    memory = bytearray(b"before")
    server.claim().send(OK, 0, payload(b"p", memory))
    memory[:] = b"after!"
    assert server.come_back().frames[0][5] == [b"before"]


def test_the_answer_leaves_before_it_is_copied_or_not_but_never_changed(server: Server) -> None:
    memory = bytearray(MAX_KEPT_BUFFERS + 1)
    server.claim().send(OK, 0, payload(b"p", memory))
    assert server.link.frames[0][5] == [bytes(memory)]
