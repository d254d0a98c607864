"""
The blocking client.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bgpy.calling import NO_LIMIT, Caller, Wait
from bgpy.connection import Connection
from bgpy.errors import (
    BgpyError,
    ConnectError,
    ConnectionLostError,
    OwnServerError,
    ProtocolError,
    RemoteProtocolError,
    SerializationError,
    ServerEndingError,
)
from bgpy.held import get_held_instances
from bgpy.pool import LanePool, PoolLane
from bgpy.protocol.calls import (
    STATUS_LANE,
    STREAM_FLAGS,
    SUBMIT_FLAGS,
    Call,
    execute_call,
    exit_call,
    initialize_call,
    pickled_call,
    read_answer,
    read_initialized,
    status_call,
)
from bgpy.protocol.exchange import BrokenConnection, Deliver, Exchange, Open, Receive, Transmit
from bgpy.protocol.frames import FLAG_AWAIT, FLAG_CONFIRM, FLAG_MORE, Frame, FrameFields, brief
from bgpy.protocol.handshake import Admission, Opening
from bgpy.protocol.messages import REQUEST, STATUS, dump_plain
from bgpy.protocol.states import State
from bgpy.seconds import plain_seconds

if TYPE_CHECKING:
    from concurrent.futures import Future

Lane = PoolLane[Connection]


class Client(Caller):
    """
    Talk to a server with dicts of Python objects. Safe from many threads, and in forked children.

    No connection is made before the first request; then connections are kept and reused.

    Parameters
    ----------
    host, port
        Where the server listens.
    token
        As for `Server`: None finds the one that this user's programs share.
    log_level, log_file
        Level of the ``bgpy.client`` logger, and a file for it; None leaves logging alone.
    timeout
        Seconds that each request may take unless it says otherwise; None waits for the server, however long it works.
    connect_timeout
        Seconds that a connection may take until both sides have proved the token.
    ssl_context, tls
        As for `Server`, for this side.
    max_connections
        Most requests at once; further ones wait for a free connection.
    max_message_size
        Most bytes of one message, in either direction.
    """

    def _begin(self) -> None:
        super()._begin()
        self._pool: LanePool[Connection] = LanePool(self._max_connections)
        self._status_pool: LanePool[Connection] = LanePool(1, STATUS_LANE)

    def _abandon(self) -> None:
        self._status_pool.abandon()
        self._pool.abandon()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def initialize(self, *tasks: Any, exist_ok: bool = False, timeout: float | None = None, **named: Any) -> dict[str, Any]:
        """
        Send the server its tasks and run its init task; blocks until that is done.

        Parameters
        ----------
        tasks
            Init, exec and exit task; or a module, a module's name, or a `TaskSet`. They travel by value where the server cannot
            import them.
        named
            ``init``, ``exec`` and ``exit``, for tasks that are given by name.
        exist_ok
            Whether a server that has its tasks already is fine.
        timeout
            Seconds for this request; None is the client's own.

        Returns
        -------
        response
            ``{"message": "Initialization successful."}``, or what the init task responded; with `exist_ok` perhaps
            ``{"message": "Already initialized."}``.

        Raises
        ------
        AlreadyInitializedError
            The server has its tasks, and `exist_ok` is false.
        RemoteError, InvalidResultError
            The init task raised, or returned no dict; the server can be initialised again.
        BgpyError
            Also all that `execute` raises.
        """
        call = initialize_call(tasks, named)
        return read_initialized(call.message, self._first_frame(call, timeout), exist_ok)

    def execute(self, args: dict[str, Any], await_response: bool = False, timeout: float | None = None) -> dict[str, Any]:
        """
        Run the exec task once; blocks until the request is confirmed or, with `await_response`, answered.

        Parameters
        ----------
        args
            Any dict that can be pickled.
        await_response
            Whether to wait for what the task passes to `respond`.
        timeout
            Seconds for this request; None is the client's own.

        Returns
        -------
        response
            The response, or ``{"message": "Received 'EXEC'"}``: the request is claimed and will run once.

        Raises
        ------
        RemoteError
            The task raised; `__cause__` is its exception where it can be unpickled here.
        NoResponseError, InvalidResultError
            The task ended without a response, or returned no dict.
        NotInitializedError, ServerEndingError, OverloadedError
            The server did not run it.
        SerializationError, PythonVersionError, MessageTooLargeError
            The request or its answer cannot travel; see `executed`.
        ConnectError, AuthenticationError, ProtocolError
            No connection; nothing ran.
        ConnectionLostError, AnswerLostError, RequestTimeoutError
            See `executed` for whether it ran.
        OwnServerError
            Called from a task of this very server.
        ClientClosedError
            `close` was called.
        """
        pickle = dump_plain(args) if await_response else None
        if pickle is not None:
            return read_answer(args, self._ask(args, pickle, timeout)) or {}
        call = execute_call(args, FLAG_AWAIT if await_response else FLAG_CONFIRM)
        return read_answer(args, self._first_frame(call, timeout)) or {}

    def stream(self, args: dict[str, Any], timeout: float | None = None) -> Iterator[dict[str, Any]]:
        """
        Run the exec task and yield each response as it comes, up to the last one. The request is sent at the first step.

        Parameters
        ----------
        args
            Any dict that can be pickled.
        timeout
            Seconds for each response; None is the client's own.

        Raises
        ------
        BgpyError
            As `execute`.
        """
        call = execute_call(args, STREAM_FLAGS)
        wait = self._wait(timeout)
        pool = self._pool  # this one also where a child is forked before the last response
        lane = self._take(wait)
        try:
            for frame in self._exchange(lane, call, wait):
                message = read_answer(call.message, frame)
                if message is None:
                    return
                yield message
                wait.renew()
        finally:
            self._give_back(lane, pool, draining=False)

    def submit(self, args: dict[str, Any], timeout: float | None = None) -> Future[dict[str, Any]]:
        """
        Run the exec task; return when the request is confirmed, with a future of its response.

        Two requests submitted one after the other run in that order. A future cannot be cancelled.

        Parameters
        ----------
        args
            Any dict that can be pickled.
        timeout
            Seconds until the response; None is the client's own.

        Raises
        ------
        BgpyError
            As `execute`, here or from the future's ``result()``.
        """
        from concurrent.futures import Future

        call = execute_call(args, SUBMIT_FLAGS)
        wait = self._wait(timeout)
        lane = self._take(wait)
        future: Future[dict[str, Any]] = Future()
        future.set_running_or_notify_cancel()
        try:
            frames = self._exchange(lane, call, wait)
            frame = next(frames)
            if not frame.flags & FLAG_MORE:
                read_answer(call.message, frame)
                raise RemoteProtocolError("The server answered a request before it had confirmed it")
            threading.Thread(target=self._settle, args=(future, call, lane, frames), name="bgpy-submit", daemon=True).start()
        except BaseException:
            lane.drop()
            self._pool.give_back(lane)
            raise
        return future

    def status(self, timeout: float | None = None) -> dict[str, Any]:
        """
        Ask the server how it is, over a connection of its own: it answers however busy its tasks are.

        Returns
        -------
        status
            name, host, port, pid, id, uptime (seconds), initialized, requests, failed, failures (the last ones), connections,
            refused, memory (bytes), log_file, python, version.

        Raises
        ------
        BgpyError
            As `execute`.
        """
        call = status_call()
        return read_answer(call.message, self._first_frame(call, timeout, self._status_pool)) or {}

    def terminate(
        self, exit_args: dict[str, Any] | None = None, await_response: bool = False, timeout: float | None = None
    ) -> dict[str, Any]:
        """
        End the server: it runs its exit task with the last state. Returns when its port is free again.

        Parameters
        ----------
        exit_args
            For the exit task.
        await_response
            Whether to return what the exit task responds.
        timeout
            Seconds that running tasks get to end, and then the exit task; None is 10. Tasks that take longer are left, and the
            exit task is skipped.

        Raises
        ------
        ExitSkippedError, RemoteError
            The server has ended, but the exit task did not run, or raised.
        ServerEndingError
            Somebody else is ending it.
        BgpyError
            Also all that `execute` raises.
        """
        timeout = None if timeout is None else plain_seconds(timeout)
        call = exit_call(exit_args, await_response, timeout)
        wait = self._wait_for_exit(timeout)
        lane = self._take(wait)
        try:
            frame = next(self._exchange(lane, call, wait))
            return self._read_last(call, frame, lane.connection, wait)
        finally:
            self._give_back(lane, self._pool, draining=False)

    def close(self) -> None:
        """Close the connections that are not in use; those that are close after their request. Again is fine."""
        self._pool.close()
        self._status_pool.close()
        self._close_log()

    def _take(self, wait: Wait) -> Lane:
        lane = self._pool.oldest_draining()
        if lane is not None:
            if lane.connection is not None and not lane.connection.quiet():
                return lane  # its last request has ended: no need for one more connection
            self._pool.put_back(lane)
        return self._pool.take(wait.timeout)

    def _give_back(self, lane: Lane, pool: LanePool[Connection], *, draining: bool) -> None:
        connection = lane.connection
        lane.draining = draining
        if connection is not None and not draining and connection.state.state is not State.IDLE:
            lane.drop()  # an answer that may still come must meet nobody
        pool.give_back(lane)

    def _ask(self, args: dict[str, Any], pickle: bytes, timeout: float | None) -> FrameFields:
        """
        Make the usual request, plain values whose answer is awaited, and return that answer.

        In the fewest steps where a lane is free and its connection alive; else as any other request.
        """
        if timeout is None:
            timeout = self.timeout
        wait = NO_LIMIT if timeout is None else Wait(timeout)
        pool = self._pool
        lane = None if get_held_instances() else pool.take_free()
        if lane is None:
            return self._first_frame(pickled_call(args, pickle), timeout)
        frame = None
        try:
            connection = lane.connection
            if connection is not None:
                frame = connection.ask(REQUEST, lane.numbers, pickle, wait.deadline)
        except (BrokenConnection, TimeoutError, ProtocolError) as error:
            frame = self._go_on(lane, pickled_call(args, pickle), wait, error)
        finally:
            if frame is not None and not frame[1] & FLAG_MORE:
                pool.give_back(lane)
            else:
                self._give_back(lane, pool, draining=frame is not None)
        return self._first_frame(pickled_call(args, pickle), timeout) if frame is None else frame

    def _first_frame(self, call: Call, timeout: float | None, pool: LanePool[Connection] | None = None) -> FrameFields:
        """Make a call, over a lane of `pool` or one for requests, and return the first part of its answer."""
        wait = self._wait(timeout)
        if pool is not None:
            lane = pool.take(wait.timeout)
        else:
            pool = self._pool
            lane = pool.take_free() or self._take(wait)
        frame: FrameFields | None = None
        try:
            if lane.connection is not None and not lane.draining:
                frame = self._at_once(lane.connection, lane, call, wait)
            if frame is None:
                frame = next(self._exchange(lane, call, wait))
        finally:
            self._give_back(lane, pool, draining=frame is not None and bool(frame[1] & FLAG_MORE))
        return frame

    def _at_once(self, connection: Connection, lane: Lane, call: Call, wait: Wait) -> FrameFields | None:
        """Make a call over a connection that is there, without a detour over instructions; None where `ask` will not."""
        kind, flags, payload, _ = call
        if payload.buffers or payload.by_value:
            return None
        if kind != STATUS and connection.opening.instance in get_held_instances():
            raise OwnServerError(self._dialer.address)
        try:
            return connection.ask(brief(kind, flags), lane.numbers, payload.pickle, wait.deadline)
        except (BrokenConnection, TimeoutError, ProtocolError) as error:
            return self._go_on(lane, call, wait, error)

    def _go_on(self, lane: Lane, call: Call, wait: Wait, error: Exception) -> Frame:
        """Go on with a call that `Connection.ask` has begun and not finished: return the first part of its answer, or raise."""
        connection, number = lane.connection, lane.numbers.last
        assert connection is not None
        whole = connection.asked == number
        if isinstance(error, BrokenConnection):
            lane.drop()
            exchange = self._new_exchange(lane, call)
            exchange.take_over(number, connection.opening.instance, whole, error)
            return next(self._drive(lane, exchange, wait))
        if isinstance(error, ProtocolError):
            lane.drop()
            if whole:
                error.executed = None  # what came in place of the answer tells nothing
            raise error
        raise self._too_late(wait, None if whole else False) from None

    def _new_exchange(self, lane: Lane, call: Call) -> Exchange:
        return Exchange(self._dialer.address, lane.numbers, call.kind, call.flags, call.payload)

    def _settle(self, future: Future[dict[str, Any]], call: Call, lane: Lane, frames: Iterator[Frame]) -> None:
        """Wait for the response to a submitted request; for its own thread."""
        try:
            response = read_answer(call.message, next(frames)) or {}
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to who asks the future
            self._give_back(lane, self._pool, draining=False)
            future.set_exception(error)
        else:
            self._give_back(lane, self._pool, draining=False)
            future.set_result(response)

    def _read_last(self, call: Call, frame: Frame, connection: Connection | None, wait: Wait) -> dict[str, Any]:
        """Read the answer to an EXIT message, and wait until the server has closed the connection: then its port is free."""
        ends = True
        try:
            return read_answer(call.message, frame) or {}
        except (ServerEndingError, SerializationError) as failure:
            ends = bool(failure.executed)
            raise
        finally:
            if ends and connection is not None and wait.deadline is not None:
                connection.wait_for_end(wait.deadline)
                connection.state.closed()

    def _exchange(self, lane: Lane, call: Call, wait: Wait) -> Generator[Frame, None, None]:
        """Carry out one call over a lane, and yield the parts of the answer."""
        return self._drive(lane, self._new_exchange(lane, call), wait)

    def _drive(self, lane: Lane, exchange: Exchange, wait: Wait) -> Generator[Frame, None, None]:
        """Drive the steps of an exchange with blocking connections, and yield the parts of the answer."""
        steps = exchange.steps()
        instruction = next(steps)
        while True:
            reply: Opening | Frame | None = None
            try:
                if isinstance(instruction, Deliver):
                    yield instruction.frame
                else:
                    reply = self._carry_out(lane, instruction, exchange.kind, wait)
            except TimeoutError as error:
                if isinstance(error, BgpyError):
                    raise
                lane.drop()  # the late answer meets nobody; the lane's next request settles the number
                raise self._too_late(wait, None if exchange.whole else False) from None
            except (BrokenConnection, BgpyError) as error:
                lane.drop()
                instruction = steps.throw(self._in_time(error, exchange, wait))
            else:
                try:
                    instruction = steps.send(reply)
                except StopIteration:
                    return
                except RemoteProtocolError:
                    lane.drop()  # who sends another answer than the one that is due may send yet another
                    raise

    def _carry_out(self, lane: Lane, instruction: Open | Transmit | Receive, kind: int, wait: Wait) -> Opening | Frame | None:
        if isinstance(instruction, Open):
            return self._open(lane, instruction, kind, wait)
        connection = lane.connection
        if connection is None:
            raise ConnectionLostError(self._dialer.address, "this process was forked after it had asked", None)
        if isinstance(instruction, Receive):
            return connection.receive(wait.deadline)
        connection.transmit(*instruction, deadline=wait.deadline)
        return None

    def _in_time(self, error: Exception, exchange: Exchange, wait: Wait) -> Exception:
        """Pass a trouble of the connection on, unless there is no time left to take the request up again."""
        if exchange.begun and wait.over and isinstance(error, (BrokenConnection, ConnectError)):
            raise self._too_late(wait, None if exchange.whole else False) from error
        return error

    def _open(self, lane: Lane, instruction: Open, kind: int, wait: Wait) -> Opening:
        """See to it that the lane has an open connection: the one it has, if it is alive, or a new one."""
        connection = lane.connection
        if connection is not None and lane.draining:
            connection = self._drain(lane, wait)
        if connection is None or instruction.resume or not connection.quiet():
            lane.drop()
            connection = self._dialer.dial(self._hello(lane.index, instruction), self._time_to_open(wait))
            if connection.opening.admission is Admission.OK:
                lane.connection = connection
                self._note_opened(lane.index, instruction.resume)
            else:
                connection.close()  # it was not let in: of no use to the lane's next request
        return self._check_opening(connection.opening, instruction, kind)

    def _drain(self, lane: Lane, wait: Wait) -> Connection | None:
        """Read the end of the lane's last request, which nobody waits for; None where its connection has broken."""
        connection = lane.connection
        assert connection is not None
        try:
            while connection.state.state is State.WAITING:
                connection.receive(wait.deadline)
        except (BrokenConnection, ProtocolError):
            return None  # nobody waited for that answer: whatever is wrong with it does not concern the next request
        lane.draining = False
        return connection
