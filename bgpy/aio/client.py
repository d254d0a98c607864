"""
AsyncClient: what `bgpy.client.Client` does, for one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any

from bgpy.aio.connection import AsyncConnection, dial
from bgpy.aio.waiting import LaneQueue
from bgpy.calling import Caller, Wait
from bgpy.errors import (
    BgpyError,
    ConnectError,
    OwnServerError,
    ProtocolError,
    RemoteProtocolError,
    SerializationError,
    ServerEndingError,
)
from bgpy.held import get_held_instances
from bgpy.pool import PoolLane
from bgpy.protocol.calls import (
    STATUS_LANE,
    STREAM_FLAGS,
    SUBMIT_FLAGS,
    Call,
    execute_call,
    execute_flags,
    exit_call,
    initialize_call,
    read_answer,
    read_initialized,
    status_call,
)
from bgpy.protocol.exchange import BrokenConnection, Deliver, Exchange, Instruction, Open, Receive, Transmit
from bgpy.protocol.frames import FLAG_MORE, Frame
from bgpy.protocol.handshake import Admission, Opening
from bgpy.protocol.messages import STATUS
from bgpy.protocol.states import State
from bgpy.seconds import plain_seconds

Lane = PoolLane[AsyncConnection]


class AsyncClient(Caller):
    """
    Talk to a server with dicts of Python objects, from the coroutines of one event loop. Not thread-safe.

    No connection is made before the first request, which also decides which event loop the client belongs to; used from another
    one it raises RuntimeError. Cancelling a coroutine that waits here gives up its wait, not the request: that may still run.
    In a forked child it becomes a client of its own, which belongs to no event loop yet.

    Parameters
    ----------
    host, port, token, log_level, log_file, timeout, connect_timeout, ssl_context, tls, max_connections, max_message_size
        As for `Client`.
    """

    def _begin(self) -> None:
        super()._begin()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lanes: LaneQueue[AsyncConnection] = LaneQueue(self._max_connections)
        # One lane: status requests wait for each other, and for nobody else.
        self._status_lanes: LaneQueue[AsyncConnection] = LaneQueue(1, STATUS_LANE)
        self._connections: set[AsyncConnection] = set()
        self._submitted: set[asyncio.Task[dict[str, Any]]] = set()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def initialize(self, *tasks: Any, exist_ok: bool = False, timeout: float | None = None, **named: Any) -> dict[str, Any]:
        """Send the server its tasks and run its init task: see `Client.initialize`, also for what it raises."""
        call = initialize_call(tasks, named)
        return read_initialized(call.message, await self._first_frame(call, self._wait(timeout)), exist_ok)

    async def execute(self, args: dict[str, Any], await_response: bool = False, timeout: float | None = None) -> dict[str, Any]:
        """
        Run the exec task once; return when the request is confirmed or, with `await_response`, answered.

        Parameters, result and errors are those of `Client.execute`.
        """
        call = execute_call(args, execute_flags(await_response))
        return read_answer(call.message, await self._first_frame(call, self._wait(timeout))) or {}

    async def stream(self, args: dict[str, Any], timeout: float | None = None) -> AsyncIterator[dict[str, Any]]:
        """
        Run the exec task and yield each response as it comes, up to the last one: see `Client.stream`.

        Who leaves the loop early and wants the connection closed at once uses `contextlib.aclosing`.
        """
        call = execute_call(args, STREAM_FLAGS)
        wait = self._wait(timeout)
        lane = await self._take(wait)
        try:
            course = self._course(lane, call, wait)
            while (frame := await course.next()) is not None:
                message = read_answer(call.message, frame)
                if message is None:
                    return
                yield message
                wait.renew()
        finally:
            _give_back(self._lanes, lane)

    async def submit(self, args: dict[str, Any], timeout: float | None = None) -> asyncio.Task[dict[str, Any]]:
        """
        Run the exec task; return when the request is confirmed, with a task to await its response from.

        Two requests submitted one after the other run in that order. To cancel the task gives up the wait, not the request.

        Parameters
        ----------
        args
            Any dict that can be pickled.
        timeout
            Seconds until the response; None is the client's own.

        Raises
        ------
        BgpyError
            As `Client.execute`, here or where the task is awaited.
        """
        call = execute_call(args, SUBMIT_FLAGS)
        wait = self._wait(timeout)
        lane = await self._take(wait)
        try:
            course = self._course(lane, call, wait)
            frame = await course.next()
            if frame is None or not frame.flags & FLAG_MORE:
                if frame is not None:
                    read_answer(call.message, frame)
                raise RemoteProtocolError("The server answered a request that it had not confirmed")
        except BaseException:
            _give_back(self._lanes, lane)
            raise
        task = asyncio.get_running_loop().create_task(_read_response(course, call))
        self._submitted.add(task)
        # In a callback: a task that is cancelled before it begins never comes to its own end.
        task.add_done_callback(partial(self._end_submitted, lane))
        return task

    async def status(self, timeout: float | None = None) -> dict[str, Any]:
        """Ask the server how it is, over a connection of its own: see `Client.status`."""
        call = status_call()
        return read_answer(call.message, await self._first_frame(call, self._wait(timeout), self._status_lanes)) or {}

    async def terminate(
        self, exit_args: dict[str, Any] | None = None, await_response: bool = False, timeout: float | None = None
    ) -> dict[str, Any]:
        """End the server; return when its port is free again. See `Client.terminate`, also for what it raises."""
        timeout = None if timeout is None else plain_seconds(timeout)
        call = exit_call(exit_args, await_response, timeout)
        wait = self._wait_for_exit(timeout)
        lane = await self._take(wait)
        try:
            frame = await self._course(lane, call, wait).first()
            return await self._read_last(call, frame, lane.connection, wait)
        finally:
            _give_back(self._lanes, lane)

    async def close(self) -> None:
        """Close the connections that are not in use; those that are close after their request. Again is fine."""
        self._check_loop()
        self._lanes.close()
        self._status_lanes.close()
        self._close_log()
        closing = [connection.ended for connection in self._connections if connection.state.state is State.CLOSED]
        if closing:
            await asyncio.wait(closing)

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError("This AsyncClient was first used in another event loop. Make one AsyncClient for each loop.")

    async def _take(self, wait: Wait) -> Lane:
        self._check_loop()
        lane = self._lanes.oldest_draining()
        if lane is not None:
            if lane.connection is not None and not lane.connection.quiet():
                return lane  # its last request has ended: no need for one more connection
            self._lanes.put_back(lane)
        return await self._lanes.take(wait.left)

    async def _first_frame(self, call: Call, wait: Wait, lanes: LaneQueue[AsyncConnection] | None = None) -> Frame:
        """Make a call and return the first part of its answer."""
        self._check_loop()
        if lanes is None:
            lanes = self._lanes
            lane = lanes.take_free() or await self._take(wait)
        else:
            lane = await lanes.take(wait.left)
        frame = None
        try:
            connection = lane.connection
            if connection is not None and not lane.draining and connection.ready(call.payload):
                frame = await self._at_once(connection, lane, call, wait)
            else:
                frame = await self._course(lane, call, wait).first()
        finally:
            if frame is not None and not frame.flags & FLAG_MORE:
                lanes.give_back(lane)
            else:
                _give_back(lanes, lane, draining=frame is not None)
        return frame

    async def _at_once(self, connection: AsyncConnection, lane: Lane, call: Call, wait: Wait) -> Frame:
        """As `Client` does it: the usual thing over a connection that lives; where it breaks, an exchange goes on."""
        kind, flags, payload, _ = call
        held = get_held_instances()
        if held and connection.opening.instance in held and kind != STATUS:
            raise OwnServerError(self._dialer.address)
        number = lane.numbers.next()
        whole = False
        try:
            await connection.transmit(kind, flags, 0, number, payload, wait.left)
            whole = True
            frame = await connection.receive(wait.left)
            if frame.number != number or frame.part:
                raise RemoteProtocolError(f"Expected part 0 of answer {number}, got part {frame.part} of {frame.number}")
            return frame
        except BrokenConnection as broken:
            lane.drop()
            exchange = self._exchange(lane, call)
            exchange.take_over(number, connection.opening.instance, whole, broken)
        except TimeoutError:
            raise self._too_late(wait, None if whole else False) from None
        except ProtocolError as error:
            lane.drop()
            if whole:
                error.executed = None  # what came in place of the answer tells nothing
            raise
        return await self._course(lane, call, wait, exchange).first()

    def _end_submitted(self, lane: Lane, task: asyncio.Task[dict[str, Any]]) -> None:
        self._submitted.discard(task)
        _give_back(self._lanes, lane)

    async def _read_last(self, call: Call, frame: Frame, connection: AsyncConnection | None, wait: Wait) -> dict[str, Any]:
        """Read the answer to an EXIT message, and wait until the server has closed the connection: then its port is free."""
        ends = True
        try:
            return read_answer(call.message, frame) or {}
        except (ServerEndingError, SerializationError) as failure:
            ends = bool(failure.executed)
            raise
        finally:
            if ends and connection is not None:
                await connection.wait_for_end(wait.left)
                connection.close()

    def _exchange(self, lane: Lane, call: Call) -> Exchange:
        return Exchange(self._dialer.address, lane.numbers, call.kind, call.flags, call.payload)

    def _course(self, lane: Lane, call: Call, wait: Wait, exchange: Exchange | None = None) -> _Course:
        exchange = exchange or self._exchange(lane, call)
        return _Course(exchange, lane, wait, partial(self._open, lane, call.kind, wait), partial(self._too_late, wait))

    async def _open(self, lane: Lane, kind: int, wait: Wait, instruction: Open) -> Opening:
        """See to it that the lane has an open connection: the one it has, if it is alive, or a new one."""
        connection = lane.connection
        if connection is not None and lane.draining:
            connection = await _drain(connection, wait)
        if connection is None or instruction.resume or not connection.quiet():
            lane.drop()
            connection = await dial(self._dialer, self._hello(lane.index, instruction), self._time_to_open(wait))
            self._connections.add(connection)
            connection.ended.add_done_callback(partial(self._forget, connection))
            if connection.opening.admission is Admission.OK:
                lane.connection = connection
                self._note_opened(lane.index, instruction.resume)
            else:
                connection.close()  # it was not let in: of no use to the lane's next request
        return self._check_opening(connection.opening, instruction, kind)

    def _forget(self, connection: AsyncConnection, ended: asyncio.Future[None]) -> None:
        self._connections.discard(connection)


class _Course:
    """
    One call on its way over a lane: the steps of `Exchange`, driven by asyncio.

    Parameters
    ----------
    open_lane
        Sees to it that the lane has an open connection.
    too_late
        Makes the error for when the wait is over; is told what is known of the request.
    """

    def __init__(
        self,
        exchange: Exchange,
        lane: Lane,
        wait: Wait,
        open_lane: Callable[[Open], Awaitable[Opening]],
        too_late: Callable[[bool | None], BgpyError],
    ) -> None:
        self._exchange = exchange
        self._steps = exchange.steps()
        self._instruction: Instruction | None = next(self._steps)
        self._lane = lane
        self._wait = wait
        self._open_lane = open_lane
        self._too_late = too_late

    async def first(self) -> Frame:
        """Return the first part of the answer."""
        frame = await self.next()
        assert frame is not None
        return frame

    async def next(self) -> Frame | None:
        """Return the next part of the answer, None after the last one; raises as `Exchange.steps`, and RequestTimeoutError."""
        while self._instruction is not None:
            try:
                reply = await self._carry_out(self._instruction)
            except TimeoutError as error:
                self._lane.drop()  # the late answer meets nobody; the lane's next request settles the number
                if isinstance(error, BgpyError):
                    raise
                raise self._too_late(self._executed) from None
            except (BrokenConnection, BgpyError) as error:
                self._lane.drop()
                if self._exchange.begun and self._wait.over and isinstance(error, (BrokenConnection, ConnectError)):
                    raise self._too_late(self._executed) from error
                self._instruction = self._steps.throw(error)
                continue
            try:
                self._instruction = self._steps.send(reply)
            except StopIteration:
                self._instruction = None
            except RemoteProtocolError:
                self._lane.drop()  # who sends another answer than the one that is due may send yet another
                raise
            if isinstance(self._instruction, Deliver):
                return self._instruction.frame
        return None

    @property
    def _executed(self) -> bool | None:
        return None if self._exchange.whole else False

    async def _carry_out(self, instruction: Instruction) -> Opening | Frame | None:
        if isinstance(instruction, Deliver):
            return None  # the last call of `next` returned it
        if isinstance(instruction, Open):
            return await self._open_lane(instruction)
        connection = self._lane.connection
        assert connection is not None
        if isinstance(instruction, Receive):
            return await connection.receive(self._wait.left)
        assert isinstance(instruction, Transmit)
        await connection.transmit(*instruction, self._wait.left)
        return None


async def _drain(connection: AsyncConnection, wait: Wait) -> AsyncConnection | None:
    """Read the end of the lane's last request, which nobody waits for; None where its connection has broken."""
    try:
        while connection.state.state is State.WAITING:
            await connection.receive(wait.left)
    except (BrokenConnection, ProtocolError):
        return None
    return connection


async def _read_response(course: _Course, call: Call) -> dict[str, Any]:
    return read_answer(call.message, await course.first()) or {}


def _give_back(lanes: LaneQueue[AsyncConnection], lane: Lane, *, draining: bool = False) -> None:
    connection = lane.connection
    lane.draining = draining
    if connection is not None and not draining and connection.state.state is not State.IDLE:
        lane.drop()  # an answer that may still come must meet nobody
    lanes.give_back(lane)
