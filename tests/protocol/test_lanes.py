"""Exactly once, the server's side: who may claim a request, and what is kept for those who come back."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from bgpy.errors import AnswerLostError, LocalProtocolError
from bgpy.protocol import lanes
from bgpy.protocol.failures import load_failure
from bgpy.protocol.frames import FLAG_MORE
from bgpy.protocol.handshake import ZERO_ID, Admission, ClientHello
from bgpy.protocol.lanes import CLIENT_LIFETIME, MAX_KEPT_BUFFERS, Answer, Lane, LaneTable, Verdict
from bgpy.protocol.messages import MessageType, Payload

ME = b"me" * 8
OK, ERROR, END = MessageType.OK, MessageType.ERROR, MessageType.END


class Link:
    """A connection: takes frames while it is alive."""

    def __init__(self, during: Callable[[], None] = lambda: None) -> None:
        self.alive = True
        self.fenced = 0
        self.frames: list[tuple[int, int, int, int, bytes, list[bytes]]] = []
        self._during = during

    def send_frame(self, kind: int, flags: int, part: int, number: int, payload: Payload) -> bool:
        self._during()
        if self.alive:
            self.frames.append((kind, flags, part, number, bytes(payload.pickle), [bytes(buffer) for buffer in payload.buffers]))
        return self.alive

    def fence(self) -> None:
        self.fenced += 1
        self.alive = False

    @property
    def parts(self) -> list[tuple[int, bytes]]:
        return [(part, pickle) for _, _, part, _, pickle, _ in self.frames]

    def lost(self) -> AnswerLostError:
        """Return the error that is the only and last frame here."""
        ((kind, flags, _, _, pickle, _),) = self.frames
        assert (kind, flags) == (ERROR, 0)
        error = load_failure(pickle)
        assert isinstance(error, AnswerLostError)
        assert error.executed is True
        return error


@pytest.fixture
def fast_switches() -> Iterator[None]:
    """Let threads change places as often as they can, so that a race shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def payload(pickle: bytes = b"answer", *buffers: bytes | bytearray) -> Payload:
    return Payload(pickle, [memoryview(buffer) for buffer in buffers], False)


def hello(client: bytes = ME, lane: int = 0, *, resume: bool = False) -> ClientHello:
    return ClientHello(client, lane, resume, ZERO_ID)


class Server:
    """A table with one lane of one client, and the connection that has it."""

    def __init__(self) -> None:
        self.table = LaneTable()
        self.link = Link()
        self.lane = self.attach(self.link)

    def attach(self, link: Link, *, resume: bool = False) -> Lane:
        admission, lane = self.table.attach(hello(resume=resume), link, 0.0)
        assert admission is Admission.OK
        return lane

    def claim(self, number: int = 1, link: Link | None = None) -> Answer:
        """Claim a fresh request."""
        verdict, answer = self.table.claim(self.lane, link or self.link, number)
        assert verdict is Verdict.FRESH
        assert answer is not None
        return answer

    def come_back(self, number: int = 1, have: int = 0) -> Link:
        """Take up a request again over another connection."""
        self.link.alive = False
        self.link = Link()
        assert self.attach(self.link, resume=True) is self.lane
        verdict, answer = self.table.claim(self.lane, self.link, number)
        assert verdict is Verdict.REPLAY
        assert answer is not None
        answer.replay(self.link, have)
        return self.link


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


@pytest.fixture
def small_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MAX_KEPT_TOTAL", 300_000)


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


@pytest.mark.usefixtures("small_total")
def test_what_was_acknowledged_makes_room() -> None:
    server = Server()
    for number in range(1, 20):
        answer = server.claim(number)
        answer.send(OK, FLAG_MORE, payload(bytes(100_000)))
        answer.send(OK, 0, payload(bytes(100_000)))
        server.come_back(number)
        assert [len(pickle) for _, pickle in server.link.parts] == [100_000, 100_000]
    assert server.table._large_size == 200_000
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
        def send_frame(self, kind: int, flags: int, part: int, number: int, payload: Payload) -> bool:
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
