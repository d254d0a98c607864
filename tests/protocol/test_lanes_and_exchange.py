"""Exactly once, both sides against a model: whatever is cut, lost or late, nothing runs twice and nobody waits for ever."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bgpy.errors import AnswerLostError, BgpyError, ConnectionLostError
from bgpy.protocol.exchange import BrokenConnection, Deliver, Exchange, Instruction, LaneNumbers, Open, Receive, Transmit
from bgpy.protocol.failures import load_failure
from bgpy.protocol.frames import FLAG_MORE, Frame
from bgpy.protocol.handshake import ZERO_ID, Admission, ClientHello, Opening, own_python
from bgpy.protocol.lanes import MAX_KEPT_BUFFERS, Answer, Lane, LaneTable, Verdict
from bgpy.protocol.messages import MessageType, Payload, PayloadFields

CLIENT = b"client" + bytes(10)
TOO_LARGE_TO_KEEP = memoryview(bytes(MAX_KEPT_BUFFERS + 1))
LANES = 2


class Line:
    """One connection: what is on its way in either direction, and whether it is cut."""

    def __init__(self, opening: Opening, lane: Lane | None) -> None:
        self.opening = opening
        self.lane = lane
        self.to_server: deque[Transmit] = deque()
        self.to_client: deque[Frame] = deque()
        self.cut = False

    def send_frame(self, kind: int, flags: int, part: int, number: int, payload: PayloadFields) -> bool:
        if not self.cut:
            self.to_client.append(Frame(kind, flags, part, number, payload[0], []))
        return not self.cut

    def fence(self) -> None:
        self.cut = True


class Job:
    """One request, and all that happened to it."""

    def __init__(self, name: bytes, parts: int, large: int | None) -> None:
        self.name = name
        self.parts = parts
        self.large = large
        self.ran = 0
        self.sent = 0
        self.answer: Answer | None = None
        self.got: list[bytes] = []
        self.error: BgpyError | None = None
        self.state = "waiting"

    def part(self, number: int) -> bytes:
        return b"%s part %d" % (self.name, number)


class ClientLane:
    """One lane of the client: the request that is on it, and the connection that it has."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.numbers = LaneNumbers()
        self.line: Line | None = None
        self.job: Job | None = None
        self.steps: Generator[Instruction, Opening | Frame | None, None] | None = None
        self.instruction: Instruction | None = None


class Both(RuleBasedStateMachine):
    """A client with two lanes, a server, and between them lines that do what they like."""

    def __init__(self) -> None:
        super().__init__()
        self.instance = 1
        self.table = LaneTable()
        self.lanes = [ClientLane(index) for index in range(LANES)]
        self.lines: list[Line] = []
        self.jobs: list[Job] = []

    # The client.

    @rule(
        index=st.integers(0, LANES - 1),
        times=st.integers(1, 4),
        written=st.sampled_from([None, None, None, 0, 1, 8]),
        parts=st.integers(1, 4),
        large=st.sampled_from([None, None, 0, 1]),
    )
    def go_on(self, index: int, times: int, written: int | None, parts: int, large: int | None) -> None:
        """Let a lane do some instructions, the first of a new request where it has none; the last one may break."""
        self.begin(index, parts, large)
        for _ in range(times - 1):
            self.step(index, None)
        self.step(index, written)

    def begin(self, index: int, parts: int, large: int | None) -> None:
        lane = self.lanes[index]
        if lane.job is None:
            lane.job = Job(b"job %d" % len(self.jobs), parts, large)
            self.jobs.append(lane.job)
            lane.steps = Exchange("a:1", lane.numbers, MessageType.EXEC, 0, Payload(lane.job.name, [], False)).steps()
            lane.instruction = next(lane.steps)

    def step(self, index: int, written: int | None) -> None:
        """Let a lane do its next instruction; `written` bytes leave before its line is cut."""
        lane = self.lanes[index]
        if lane.steps is None or lane.instruction is None or lane.job is None:
            return
        try:
            try:
                reply = self._do(lane, lane.instruction, written)
            except BlockingIOError:
                return
            except BrokenConnection as broken:
                self._drop(lane)
                lane.instruction = lane.steps.throw(broken)
            else:
                lane.instruction = lane.steps.send(reply)
        except StopIteration:
            self._settle(lane, "done", None)
        except BgpyError as error:
            self._drop(lane)
            self._settle(lane, "failed", error)

    @rule(index=st.integers(0, LANES - 1), really=st.integers(0, 3))
    def give_up(self, index: int, really: int) -> None:
        """A time-out: the connection leaves, the request goes on."""
        if really:
            return
        lane = self.lanes[index]
        if lane.job is not None:
            self._drop(lane)
            self._settle(lane, "given up", None)

    def _do(self, lane: ClientLane, instruction: Instruction, written: int | None) -> Opening | Frame | None:
        if isinstance(instruction, Open):
            return self._open(lane, instruction, written)
        if isinstance(instruction, Deliver):
            assert lane.job is not None
            frame = instruction.frame
            lane.job.got.append(bytes(frame.pickle) if frame.kind == MessageType.OK else b"lost")
            if frame.kind == MessageType.ERROR:
                lane.job.error = load_failure(frame.pickle)
            return None
        line = lane.line
        assert line is not None
        if isinstance(instruction, Transmit):
            if line.cut:
                raise BrokenConnection("cut")
            if written is not None:
                # Whatever left, the last byte did not: a send that hands that over does not fail.
                line.cut = True
                raise BrokenConnection("cut", written)
            line.to_server.append(instruction)
            return None
        assert isinstance(instruction, Receive)
        if line.to_client:
            return line.to_client.popleft()
        if line.cut:
            raise BrokenConnection("cut")
        raise BlockingIOError

    def _open(self, lane: ClientLane, instruction: Open, written: int | None) -> Opening:
        if lane.line is not None and not lane.line.cut and not instruction.resume:
            return lane.line.opening
        self._drop(lane)
        if written is not None:
            raise BrokenConnection("cut during the opening", written)
        hello = ClientHello(CLIENT, lane.index, instruction.resume, instruction.instance)
        line = Line(self._opening(hello, Admission.OTHER_INSTANCE), None)
        if instruction.instance in (ZERO_ID, self._instance_id):
            admission, line.lane = self.table.attach(hello, line, 0.0)
            line.opening = self._opening(hello, admission)
        self.lines.append(line)
        lane.line = line
        return line.opening

    def _opening(self, hello: ClientHello, admission: Admission) -> Opening:
        return Opening(hello, self._instance_id, admission, own_python(), 1000, None, None)

    def _drop(self, lane: ClientLane) -> None:
        if lane.line is not None:
            lane.line.cut = True
            lane.line = None

    def _settle(self, lane: ClientLane, state: str, error: BgpyError | None) -> None:
        assert lane.job is not None
        lane.job.state = state
        lane.job.error = lane.job.error or error
        lane.job = lane.steps = lane.instruction = None

    # The lines and the server.

    @property
    def _instance_id(self) -> bytes:
        return bytes([self.instance]) * 16

    @rule(pick=st.integers(0, 9), lose_requests=st.booleans(), lose_answers=st.booleans())
    def cut(self, pick: int, lose_requests: bool, lose_answers: bool) -> None:
        for line in self._picked(pick):
            self._cut(line, lose_requests, lose_answers)

    def _picked(self, pick: int) -> list[Line]:
        return [self.lines[-1 - pick % len(self.lines)]] if self.lines else []

    def _cut(self, line: Line, lose_requests: bool, lose_answers: bool) -> None:
        line.cut = True
        if lose_requests:
            line.to_server.clear()
        if lose_answers:
            line.to_client.clear()

    @rule(pick=st.integers(0, 9))
    def arrive(self, pick: int) -> None:
        """Let a request arrive, also over a line that was cut long ago: its bytes were on the way."""
        for line in self._picked(pick):
            self._arrive(line)

    def _arrive(self, line: Line) -> None:
        if not line.to_server or line.lane is None:
            return
        request = line.to_server.popleft()
        verdict, answer = self.table.claim(line.lane, line, request.number)
        if answer is None:
            assert line.cut or verdict is Verdict.FENCED, "a client in good standing was turned away"
        elif verdict is Verdict.REPLAY:
            answer.replay(line, request.part)
        else:
            (job,) = [job for job in self.jobs if job.name == request.payload.pickle]
            job.ran += 1
            job.answer = answer

    @rule(pick=st.integers(0, 9))
    def work(self, pick: int) -> None:
        if self.jobs:
            self._work(self.jobs[-1 - pick % len(self.jobs)])

    def _work(self, job: Job) -> None:
        if job.answer is None or job.sent == job.parts:
            return
        buffers = [TOO_LARGE_TO_KEEP] if job.sent == job.large else []
        flags = FLAG_MORE if job.sent + 1 < job.parts else 0
        job.answer.send(MessageType.OK, flags, Payload(job.part(job.sent), buffers, False))
        job.sent += 1

    @rule()
    def start_anew(self) -> None:
        """End the server in the middle of everything, and start another one in its place."""
        if self.instance < 4:
            self.instance += 1
            self.table = LaneTable()
            for line in self.lines:
                line.cut = True
                line.to_server.clear()
            for job in self.jobs:
                job.answer = None

    # What must hold.

    @invariant()
    def nothing_runs_twice(self) -> None:
        assert all(job.ran <= 1 for job in self.jobs)

    @invariant()
    def who_was_answered_was_told_the_truth(self) -> None:
        for job in self.jobs:
            parts = [job.part(number) for number in range(job.parts)]
            if job.state == "done":
                assert job.ran == 1
                if job.error is None:
                    assert job.got == parts
                else:
                    assert isinstance(job.error, AnswerLostError)
                    assert job.large is not None
                    assert job.got[:-1] == parts[: len(job.got) - 1]
            elif job.state == "failed":
                assert isinstance(job.error, BgpyError)
                assert job.ran == 0 or job.error.executed is not False
                assert job.got == parts[: len(job.got)]

    def teardown(self) -> None:
        for turn in range(300):
            for lane in self.lanes:
                self.step(lane.index, None)
            for line in self.lines:
                self._arrive(line)
            for job in self.jobs:
                self._work(job)
            if turn > 100 and not any(lane.job for lane in self.lanes):
                break
        assert not any(lane.job for lane in self.lanes), "somebody waits for ever"
        self.nothing_runs_twice()
        self.who_was_answered_was_told_the_truth()
        for job in self.jobs:
            if job.state == "failed" and self.instance == 1:
                assert not isinstance(job.error, ConnectionLostError) or "in vain" in job.error.reason


Both.TestCase.settings = settings(max_examples=200, stateful_step_count=60)


class TestBoth(Both.TestCase):  # type: ignore[misc,valid-type]
    """Hypothesis runs the rules in any order."""


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("late", [1, 3, 8])
def test_1000_requests_count_to_1000_though_every_line_breaks(parts: int, late: int) -> None:
    """Every `late` steps what is on the way arrives, that of the newest line first: the old bytes come after the new ones."""
    both = Both()
    for index in range(1000):
        both.begin(0, parts, None)
        job = both.jobs[-1]
        # Broken once by the client's side and once by the line, at each pair of steps in turn.
        breaks, cuts, written = index % 13, index // 39 % 13, (None, 0, 1)[index // 13 % 3]
        for turn in range(300):
            both.step(0, written if turn == breaks else None)
            if turn == cuts:
                both.cut(0, bool(index % 2), bool(index % 3))
            if turn % late == late - 1:
                for line in range(3):
                    both.arrive(line)
                both.work(0)
            if job.state != "waiting":
                break
        assert (job.state, job.error, job.got) == ("done", None, [job.part(number) for number in range(parts)])
    assert sum(job.ran for job in both.jobs) == 1000
