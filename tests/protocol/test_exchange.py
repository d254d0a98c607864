"""Exactly once, the client's side: a request whose connection breaks at any step ends well, or says what is known of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from bgpy.errors import (
    AuthenticationError,
    BgpyError,
    ConnectError,
    ConnectionLostError,
    LocalProtocolError,
    MessageTooLargeError,
    ProtocolError,
    PythonVersionError,
    RemoteProtocolError,
)
from bgpy.protocol.exchange import (
    MAX_OPENINGS,
    MAX_RESUMES,
    BrokenConnection,
    Deliver,
    Exchange,
    Instruction,
    LaneNumbers,
    Open,
    Receive,
    Transmit,
)
from bgpy.protocol.frames import FLAG_AWAIT, FLAG_BY_VALUE, FLAG_MORE, Frame
from bgpy.protocol.handshake import ZERO_ID, Admission, ClientHello, Opening, own_python
from bgpy.protocol.messages import MessageType, Payload

INSTANCE = b"instance" * 2
SIZE = 9  # bytes of the frame, as far as these tests are concerned


def opening(
    admission: Admission = Admission.OK, *, limit: int = 1000, python: str | None = None, instance: bytes = INSTANCE
) -> Opening:
    hello = ClientHello(bytes(16), 0, False, ZERO_ID)
    return Opening(hello, instance, admission, python or own_python(), limit, None, None)


def exchange(size: int = 6, *, by_value: bool = False, numbers: LaneNumbers | None = None) -> Exchange:
    return Exchange("a:1", numbers or LaneNumbers(), MessageType.EXEC, FLAG_AWAIT, Payload(bytes(size), [], by_value))


def answer(part: int = 0, number: int = 1, *, more: bool = False) -> Frame:
    return Frame(MessageType.OK, FLAG_MORE if more else 0, part, number, b"%d" % part, [])


class World:
    """A server and the lines to it: answers instructions, and breaks at those that it is told to."""

    def __init__(self, parts: int = 1) -> None:
        self.parts = parts
        self.executed: dict[int, int] = {}
        self.log: list[str] = []
        self.delivered: list[int] = []
        self.resumed = False
        self._waiting: list[Frame] = []
        self._connected = False

    def run(
        self, asked: Exchange, breaks: dict[int, int] | None = None, readmit: Callable[[], Opening] = opening
    ) -> BgpyError | None:
        """
        Drive an exchange to its end and return its error.

        Parameters
        ----------
        breaks
            Number of the instruction at which the connection breaks, and how many bytes had left; never all of a request.
        readmit
            What a connection that resumes meets: an opening, or an error that it raises.
        """
        steps = asked.steps()
        move = lambda: next(steps)  # noqa: E731 - the next move, made below
        for turn in itertools.count():
            try:
                instruction = move()
            except StopIteration:
                return None
            except BgpyError as error:
                return error
            assert turn < 500, "it never ends"
            try:
                reply = self._reply(instruction, (breaks or {}).get(turn), readmit)
            except (BrokenConnection, BgpyError) as error:
                self._connected = False
                move = lambda error=error: steps.throw(error)  # type: ignore[misc]  # noqa: E731 - the next move, made below
            else:
                move = lambda reply=reply: steps.send(reply)  # type: ignore[misc]  # noqa: E731 - the next move, made below
        raise AssertionError

    def _reply(self, instruction: Instruction, broken: int | None, readmit: Callable[[], Opening]) -> Opening | Frame | None:
        self.log.append(type(instruction).__name__ if not isinstance(instruction, Open) or not instruction.resume else "Resume")
        if isinstance(instruction, Open):
            if broken is not None:
                raise BrokenConnection("cut", broken)
            reply = readmit() if instruction.resume else opening()
            assert instruction.instance == (INSTANCE if instruction.resume else ZERO_ID)
            self._connected, self._waiting = True, []
            return reply
        if isinstance(instruction, Deliver):
            self.delivered.append(instruction.frame.part)
            return None
        assert self._connected, "asked for something over a connection that is gone"
        if isinstance(instruction, Transmit):
            if broken is not None:
                raise BrokenConnection("cut", broken)
            self._take(instruction)
            return None
        if broken is not None:
            raise BrokenConnection("cut")
        return self._waiting.pop(0)

    def _take(self, request: Transmit) -> None:
        self.executed.setdefault(request.number, 1)
        self._waiting = [answer(part, request.number, more=part < self.parts - 1) for part in range(request.part, self.parts)]


def test_numbers_are_used_once() -> None:
    numbers = LaneNumbers()
    assert [numbers.next() for _ in range(3)] == [1, 2, 3]
    assert numbers.last == 3


def test_a_broken_connection_says_why_and_how_many_bytes_had_left() -> None:
    assert BrokenConnection("cut").written == 0
    assert BrokenConnection("cut", 5).args == ("cut", 5)


def test_a_request_goes_out_once_and_its_parts_are_delivered_in_order() -> None:
    world, asked = World(3), exchange(by_value=True)
    assert world.run(asked) is None
    assert world.log == ["Open", "Transmit", *["Receive", "Deliver"] * 3]
    assert world.delivered == [0, 1, 2]
    assert (asked.flags, asked.begun, asked.whole) == (FLAG_AWAIT | FLAG_BY_VALUE, True, True)


def test_the_request_is_sent_as_it_is_with_the_number_of_its_lane() -> None:
    numbers = LaneNumbers()
    numbers.next()
    asked = exchange(numbers=numbers)
    steps = asked.steps()
    assert next(steps) == Open(False, ZERO_ID)
    assert not asked.begun
    assert steps.send(opening()) == Transmit(MessageType.EXEC, FLAG_AWAIT, 0, 2, asked.payload)
    assert asked.begun


WRITTEN = [0, 1, SIZE - 1]


def breakable() -> list[tuple[int, int]]:
    return list(itertools.product([0, 1, 2, 4, 6], WRITTEN))


@pytest.mark.parametrize(("step", "written"), breakable())
def test_a_break_at_any_step_runs_the_request_once_and_delivers_each_part_once(step: int, written: int) -> None:
    world = World(3)
    assert world.run(exchange(), {step: written}) is None
    assert sum(world.executed.values()) == 1
    assert world.delivered == [0, 1, 2]


@pytest.mark.parametrize(("step", "written"), breakable())
def test_a_second_break_at_any_later_step_changes_nothing(step: int, written: int) -> None:
    for second, again in itertools.product(range(step + 1, step + 8), WRITTEN):
        world = World(3)
        assert world.run(exchange(), {step: written, second: again}) is None
        assert sum(world.executed.values()) == 1
        assert world.delivered == [0, 1, 2]


@pytest.mark.parametrize("breaks", [{0: 0}, {0: 72}, {1: 0}, {0: 0, 1: 72, 3: 0}])
def test_a_connection_that_breaks_before_a_byte_of_the_request_has_left_is_replaced_silently(breaks: dict[int, int]) -> None:
    """Under TLS the opening counts its own bytes: they were taken for the request's, and a lane resumed that never was."""
    world = World()
    assert world.run(exchange(), breaks) is None
    assert "Resume" not in world.log
    assert world.log.count("Open") == len(breaks) + 1
    assert sum(world.executed.values()) == 1


def test_a_number_whose_request_never_left_is_not_used_again() -> None:
    world, numbers = World(), LaneNumbers()
    assert world.run(exchange(numbers=numbers), {1: 0}) is None
    assert (world.executed, numbers.last) == ({2: 1}, 2)


@pytest.mark.parametrize("step", [0, 1])
def test_openings_are_given_up_in_the_end_and_nothing_ran(step: int) -> None:
    world, asked = World(), exchange()
    error = world.run(asked, dict.fromkeys(range(100), 0) if not step else dict.fromkeys(range(1, 100, 2), 0))
    assert isinstance(error, ConnectError)
    assert error.executed is False
    assert (error.reason, asked.begun) == ("cut", False)
    assert world.log.count("Open") == MAX_OPENINGS + 1
    assert world.executed == {}


@pytest.mark.parametrize("written", [1, SIZE - 1])
def test_a_request_is_taken_up_again_so_often_and_no_more(written: int) -> None:
    world = World()
    error = world.run(exchange(), {turn: written for turn in range(1, 100, 2)})
    assert isinstance(error, ConnectionLostError)
    assert f"taken up again {MAX_RESUMES} times in vain" in error.reason
    assert world.log.count("Resume") == MAX_RESUMES
    assert error.executed is False
    assert world.executed == {}


def test_connections_that_cannot_be_opened_any_more_count_as_well() -> None:
    world = World()
    error = world.run(exchange(), {2: 0, **dict.fromkeys(range(3, 100), 0)})
    assert isinstance(error, ConnectionLostError)
    assert error.executed is None
    assert world.log.count("Resume") == MAX_RESUMES


def test_a_stream_that_gets_on_may_break_as_often_as_it_likes() -> None:
    """Ten breaks in the life of a long stream ended it, though each time parts had come."""
    parts = 4 * MAX_RESUMES
    world = World(parts)
    # Open, Transmit, then for each part: Receive, Deliver, Receive (cut), Resume, Transmit.
    assert world.run(exchange(), {4 + 5 * part: 0 for part in range(parts)}) is None
    assert world.delivered == list(range(parts))
    assert world.log.count("Resume") == parts - 1


OUTCOMES: list[tuple[Callable[[], Opening], str]] = [
    (lambda: opening(Admission.OTHER_INSTANCE), "the server was started anew"),
    (lambda: opening(Admission.LANE_UNKNOWN), "the server has forgotten it"),
]


def refuse(error: BgpyError) -> Callable[[], Opening]:
    def readmit() -> Opening:
        raise error

    return readmit


OUTCOMES += [
    (refuse(ConnectError("a:1", "nobody listens")), "cut; it could not be taken up again: Cannot connect to a:1: nobody listens"),
    (refuse(AuthenticationError("a:1", "the token differs")), "the token differs"),
    (refuse(RemoteProtocolError("not bgpy")), "not bgpy"),
]


@pytest.mark.parametrize(("readmit", "reason"), OUTCOMES)
@pytest.mark.parametrize(("step", "written", "executed"), [(1, 1, False), (1, SIZE - 1, False), (2, 0, None), (4, 0, None)])
def test_a_request_that_cannot_be_taken_up_again_is_never_sent_again(
    readmit: Callable[[], Opening], reason: str, step: int, written: int, executed: bool | None
) -> None:
    """A request belongs to the server under which its first byte was written: a resent `terminate` would kill the successor."""
    world = World(3)
    error = world.run(exchange(), {step: written}, readmit)
    assert isinstance(error, ConnectionLostError)
    assert reason in error.reason
    assert ".." not in str(error)
    assert error.executed is executed
    assert world.log.count("Transmit") == 1
    assert world.log[-1] == "Resume"


@pytest.mark.parametrize(("size", "passes"), [(999, True), (1000, True), (1001, False)])
def test_what_is_above_the_servers_limit_is_not_sent(size: int, passes: bool) -> None:
    world, asked = World(), exchange(size)
    error = world.run(asked)
    assert (error is None) is passes
    if not passes:
        assert isinstance(error, MessageTooLargeError)
        assert (error.size, error.limit, error.executed) == (size, 1000, False)
        assert (world.log, asked.begun) == (["Open"], False)


def test_buffers_count_for_the_limit() -> None:
    asked = Exchange("a:1", LaneNumbers(), MessageType.EXEC, 0, Payload(bytes(500), [memoryview(bytes(501))], False))
    assert isinstance(World().run(asked), MessageTooLargeError)


def test_bytecode_is_not_sent_to_another_python() -> None:
    steps = exchange(by_value=True).steps()
    next(steps)
    with pytest.raises(PythonVersionError) as caught:
        steps.send(opening(python="2.7"))
    assert (caught.value.ours, caught.value.theirs, caught.value.executed) == (own_python(), "2.7", False)
    steps = exchange().steps()
    next(steps)
    assert isinstance(steps.send(opening(python="2.7")), Transmit)


@pytest.mark.parametrize("frame", [answer(0, 2), answer(1, 1), answer(0, 0)])
def test_a_frame_that_is_not_the_next_part_is_an_error_and_nobody_knows_whether_the_request_ran(frame: Frame) -> None:
    steps = exchange().steps()
    next(steps)
    steps.send(opening())
    assert isinstance(steps.send(None), Receive)
    with pytest.raises(RemoteProtocolError, match="Expected part 0 of answer 1, got part") as caught:
        steps.send(frame)
    assert caught.value.executed is None


@pytest.mark.parametrize(
    ("step", "error", "executed"),
    [
        (0, RemoteProtocolError("not bgpy"), False),
        (1, LocalProtocolError("out of turn"), False),
        (2, RemoteProtocolError("A frame has a wrong MAC"), None),
        (2, MessageTooLargeError(2, 1), None),
    ],
)
def test_a_broken_protocol_ends_it_and_says_what_is_known(step: int, error: ProtocolError, executed: bool | None) -> None:
    steps = exchange().steps()
    next(steps)
    for reply in [opening(), None][:step]:
        steps.send(reply)
    with pytest.raises(type(error)) as caught:
        steps.throw(error)
    assert caught.value is error
    assert error.executed is executed


def test_a_connection_that_cannot_be_made_is_the_error_that_it_is() -> None:
    steps = exchange().steps()
    next(steps)
    with pytest.raises(ConnectError) as caught:
        steps.throw(ConnectError("a:1", "nobody listens"))
    assert caught.value.executed is False


# A client that did the beginning itself.


def test_what_was_begun_outside_is_taken_up_where_it_broke() -> None:
    world, asked = World(2), exchange()
    world._take(Transmit(asked.kind, asked.flags, 0, 1, asked.payload))
    asked.take_over(1, opening().instance, True, BrokenConnection("cut"))
    assert world.run(asked) is None
    assert world.log == ["Resume", "Transmit", "Receive", "Deliver", "Receive", "Deliver"]
    assert (world.delivered, world.executed) == ([0, 1], {1: 1})


@pytest.mark.parametrize("written", [0, 1])
def test_what_broke_outside_while_it_was_sent_is_replaced_or_taken_up(written: int) -> None:
    numbers = LaneNumbers()
    world, asked = World(), exchange(numbers=numbers)
    asked.take_over(numbers.next(), opening().instance, False, BrokenConnection("cut", written))
    assert world.run(asked) is None
    assert world.log[0] == ("Resume" if written else "Open")
    assert sum(world.executed.values()) == 1
