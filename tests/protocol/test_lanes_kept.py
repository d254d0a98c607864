"""What a lane keeps of its answers and for how long, and threads that meet there."""

from __future__ import annotations

import threading

import pytest
from support.lanes import ERROR, ME, OK, Link, Server, hello, payload

from bgpy.protocol import lanes
from bgpy.protocol.frames import FLAG_MORE
from bgpy.protocol.handshake import Admission
from bgpy.protocol.lanes import CLIENT_LIFETIME, MAX_KEPT_BUFFERS, Answer, LaneTable, Verdict
from bgpy.protocol.messages import PayloadFields


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def small_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MAX_KEPT_TOTAL", 300_000)


# What is kept, and what is not.


@pytest.mark.parametrize("size", [1, MAX_KEPT_BUFFERS, 3 * MAX_KEPT_BUFFERS])
def test_the_pickle_of_one_answer_is_kept_whatever_its_size(server: Server, size: int) -> None:
    server.claim().send(OK, 0, payload(bytes(size)))
    assert server.come_back().parts == [(0, bytes(size))]


@pytest.mark.parametrize(
    ("buffers", "kept"), [((MAX_KEPT_BUFFERS,), True), ((MAX_KEPT_BUFFERS + 1,), False), ((600_000, 600_000), False)]
)
def test_buffers_are_kept_up_to_a_megabyte(server: Server, buffers: tuple[int, ...], kept: bool) -> None:
    answer = server.claim()
    answer.send(OK, 0, payload(b"p", *map(bytes, buffers)))
    assert len(server.link.frames) == 1
    back = server.come_back()
    if kept:
        assert back.frames == [(OK, 0, 0, 1, b"p", [bytes(size) for size in buffers])]
    else:
        back.lost()
    assert server.table.claim(server.lane, server.link, 1)[0] is Verdict.REPLAY, "its number is forgotten"


def test_a_stream_keeps_its_last_megabyte(server: Server) -> None:
    answer = server.claim()
    part = bytes(MAX_KEPT_BUFFERS // 4)
    for _ in range(6):
        answer.send(OK, FLAG_MORE, payload(part))
    assert [number for number, _ in server.come_back(have=2).parts] == [2, 3, 4, 5]
    server.come_back(have=1).lost()


def test_a_stream_past_what_is_kept_is_lost_for_good_and_its_task_goes_on(server: Server) -> None:
    answer = server.claim()
    answer.send(OK, FLAG_MORE, payload(b"0"))
    answer.send(OK, FLAG_MORE, payload(b"1", bytes(MAX_KEPT_BUFFERS + 1)))
    back = server.come_back(have=1)
    assert back.frames[0][2:4] == (1, 1)
    back.lost()
    answer.send(OK, 0, payload(b"2"))
    assert len(back.frames) == 1


def test_a_stream_goes_on_over_a_gap_that_the_client_has_behind_it(server: Server) -> None:
    answer = server.claim()
    answer.send(OK, FLAG_MORE, payload(b"0", bytes(MAX_KEPT_BUFFERS + 1)))
    answer.send(OK, FLAG_MORE, payload(b"1"))
    back = server.come_back(have=1)
    answer.send(OK, 0, payload(b"2"))
    assert back.parts == [(1, b"1"), (2, b"2")]


@pytest.mark.usefixtures("small_total")
def test_pressure_drops_the_oldest_large_answers_and_never_a_number() -> None:
    table, kept = LaneTable(), []
    for index, size in enumerate([100, 150_000, 100_000, 100_000]):
        link = Link()
        _, lane = table.attach(hello(lane=index), link, 0.0)
        answer = table.claim(lane, link, 1)[1]
        assert answer is not None
        answer.send(OK, 0, payload(bytes(size)))
        kept.append((lane, link, answer))
    for index, (lane, link, answer) in enumerate(kept):
        back = Link()
        assert table.claim(lane, link, 1) == (Verdict.REPLAY, answer)
        answer.replay(link, 0)
        assert len(link.frames) == 2
        assert (link.frames[1][0] == ERROR) == (index == 1), "the small one and the young ones stay"
        assert back.frames == []


def test_a_large_answer_is_kept_until_the_next_request_and_no_longer() -> None:
    server = Server()
    for number in range(1, 4):
        server.claim(number).send(OK, 0, payload(bytes(10_000)))
        assert (server.table._large_size, len(server.table._large)) == (10_000, 1)


@pytest.mark.usefixtures("small_total")
def test_what_was_acknowledged_makes_room() -> None:
    server = Server()
    for number in range(1, 20):
        answer = server.claim(number)
        answer.send(OK, FLAG_MORE, payload(bytes(100_000)))
        answer.send(OK, 0, payload(bytes(100_000)))
        server.come_back(number)
        assert [len(pickle) for _, pickle in server.link.parts] == [100_000, 100_000]
        assert (server.table._large_size, len(server.table._large)) == (200_000, 1)
    server.table.acknowledge(server.lane, server.link, 20)
    assert (server.table._large_size, len(server.table._large)) == (0, 0)


@pytest.mark.usefixtures("small_total")
def test_one_answer_above_the_limit_of_the_table_stays_alone() -> None:
    server = Server()
    server.claim().send(OK, 0, payload(bytes(400_000)))
    assert server.come_back().parts == [(0, bytes(400_000))]


# Acknowledging.


def test_the_next_header_drops_the_kept_answer_but_not_the_number(server: Server) -> None:
    answer = server.claim(1)
    answer.send(OK, 0, payload())
    for number in (0, 1):
        server.table.acknowledge(server.lane, server.link, number)
        assert server.table.claim(server.lane, server.link, 1) == (Verdict.REPLAY, answer)
    server.table.acknowledge(server.lane, server.link, 2)
    assert server.lane.answer is None
    assert server.table.claim(server.lane, server.link, 1) == (Verdict.STALE, None)
    server.claim(2)


def test_a_task_that_answers_after_its_client_has_gone_on_answers_nobody(server: Server) -> None:
    """A request that was given up after a time-out: the late answer must meet nobody."""
    late = server.claim(1)
    answer = server.claim(2)
    late.send(OK, FLAG_MORE, payload(b"late"))
    late.send(OK, 0, payload(b"late", bytes(100_000)))
    assert not late.connected
    answer.send(OK, 0, payload(b"second"))
    assert server.link.frames == [(OK, 0, 0, 2, b"second", [])]
    assert server.table._large_size == 0


# The life of a record.


def test_the_record_of_a_client_goes_an_hour_after_its_last_connection() -> None:
    assert CLIENT_LIFETIME == 3600
    table, links = LaneTable(), (Link(), Link())
    held = [table.attach(hello(lane=index), link, 0.0)[1] for index, link in enumerate(links)]
    answer = table.claim(held[0], links[0], 1)[1]
    assert answer is not None
    answer.send(OK, 0, payload(bytes(100_000)))
    table.detach(ME, held[0], links[0], 10.0)

    def known(now: float) -> bool:
        admission, lane = table.attach(hello(resume=True), (link := Link()), now)
        table.detach(ME, lane, link, now) if admission is Admission.OK else None
        return admission is Admission.OK

    assert known(10_000.0), "its other connection stands"
    table.detach(ME, held[1], links[1], 20_000.0)
    assert known(23_599.0)
    assert known(27_198.0), "coming back begins the hour anew"
    assert not known(27_198.0 + 3600)
    assert table._large_size == 0
    assert table._clients == {}


def test_a_client_that_came_back_and_stays_is_not_forgotten(server: Server) -> None:
    server.claim(1)
    server.table.detach(ME, server.lane, server.link, 0.0)
    link = Link()
    _, lane = server.table.attach(hello(resume=True), link, 1.0)
    server.table.attach(hello(b"other" + bytes(11)), Link(), 1.0 + 2 * CLIENT_LIFETIME)
    assert server.table.claim(lane, link, 1)[0] is Verdict.REPLAY
    assert server.table.attach(hello(resume=True), Link(), 2.0 + 2 * CLIENT_LIFETIME) == (Admission.OK, lane)


def test_clients_that_left_are_forgotten_in_the_order_in_which_they_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MAX_DEPARTED_CLIENTS", 2)
    table = LaneTable()
    names = [bytes([index]) * 16 for index in range(4)]
    for name in names:
        link = Link()
        _, lane = table.attach(hello(name), link, 0.0)
        table.detach(name, lane, link, 0.0)
    known = {name: table.attach(hello(name, resume=True), Link(), 1.0)[0] is Admission.OK for name in names}
    assert known == {names[0]: False, names[1]: False, names[2]: True, names[3]: True}


def test_the_end_of_a_connection_of_a_client_that_is_forgotten_is_nothing(server: Server) -> None:
    server.table.detach(b"unknown" + bytes(9), server.lane, Link(), 0.0)


# Races.


def test_a_client_that_leaves_while_an_answer_goes_out_is_no_error_of_the_task(server: Server) -> None:
    """The outlet was read twice: gone in between, `respond` raised AttributeError, and the state's lock was never passed on."""

    class Leaving(Answer):
        """Loses its outlet as soon as somebody has looked at it."""

        found: Link | None

        @property
        def _outlet(self) -> Link | None:  # type: ignore[override]
            found, self.found = self.found, None
            return found

        @_outlet.setter
        def _outlet(self, value: Link | None) -> None:
            self.found = value

    answer = Leaving(server.table, 1, server.link)
    answer.send(OK, 0, payload())
    assert server.link.parts in ([], [(0, b"answer")])
    back = Link()
    answer.claimed(back)
    answer.replay(back, 0)
    assert back.parts == [(0, b"answer")]


def test_a_thread_that_comes_late_does_not_take_the_answer_from_the_connection_that_came_after_it(server: Server) -> None:
    """Claimed over the second connection, taken up over the third, and only then replayed: the third waited for ever."""
    answer = server.claim()
    second, third = Link(), Link()
    server.attach(second, resume=True)
    assert server.table.claim(server.lane, second, 1) == (Verdict.REPLAY, answer)
    server.attach(third, resume=True)
    assert server.table.claim(server.lane, third, 1) == (Verdict.REPLAY, answer)
    answer.replay(third, 0)
    answer.replay(second, 0)
    assert answer.connected
    answer.send(OK, 0, payload())
    assert third.parts == [(0, b"answer")]


def test_a_send_that_is_stuck_on_the_old_connection_does_not_hold_up_the_new_one() -> None:
    server = Server()
    stuck, free = threading.Event(), threading.Event()

    class Stuck(Link):
        def send_frame(self, kind: int, flags: int, part: int, number: int, payload: PayloadFields) -> bool:
            stuck.set()
            assert free.wait(30)
            return False

        def fence(self) -> None:
            free.set()

    server.link = Stuck()
    server.attach(server.link)
    answer = server.claim()
    thread = threading.Thread(target=answer.send, args=(OK, 0, payload()))
    thread.start()
    assert stuck.wait(30)
    back = server.come_back()
    thread.join()
    assert back.parts == [(0, b"answer")]


def test_an_answer_that_is_dropped_while_a_part_is_added_is_no_error_of_the_task(server: Server) -> None:
    """Pressure emptied the list between a look at its length and the removal of its first part."""

    class Dropping(list):  # type: ignore[type-arg]
        def __len__(self) -> int:
            answer.drop()
            answer._kept_size = MAX_KEPT_BUFFERS + 1
            return super().__len__()

    answer = server.claim()
    answer.send(OK, FLAG_MORE, payload(bytes(MAX_KEPT_BUFFERS)))
    answer._kept = Dropping(answer._kept)
    answer.send(OK, FLAG_MORE, payload(b"1"))
    server.come_back(have=0).lost()
    answer.send(OK, 0, payload(b"2"))
    assert server.come_back(have=2).parts == [(2, b"2")]


@pytest.mark.usefixtures("fast_switches", "small_total")
def test_many_threads_that_answer_under_pressure_lose_parts_but_never_a_request() -> None:
    table = LaneTable()
    failures: list[str] = []

    def work(index: int) -> None:
        link = Link()
        _, lane = table.attach(hello(lane=index), link, 0.0)
        for number in range(1, 20):
            verdict, answer = table.claim(lane, link, number)
            if verdict is not Verdict.FRESH or answer is None:
                failures.append(f"{verdict} for a new number")
                return
            for part in range(12):
                answer.send(OK, FLAG_MORE if part < 11 else 0, payload(bytes(70_000 + part)))
            back = Link()
            table.attach(hello(lane=index, resume=True), back, 0.0)
            verdict, again = table.claim(lane, back, number)
            if again is not answer:
                failures.append(f"{verdict} for the same number")
                return
            answer.replay(back, 10)
            if [frame[0] for frame in back.frames] not in ([OK, OK], [ERROR]):
                failures.append(f"replayed {[frame[:3] for frame in back.frames]}")
            link = back

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert table._large_size == sum(table._large.values())
