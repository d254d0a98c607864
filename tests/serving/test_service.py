"""The tasks and their state: who runs when, what is noted, and that every request is settled once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest

from bgpy.errors import BgpyError, LocalProtocolError, NoResponseError, ServerEndingError
from bgpy.held import held_instances
from bgpy.protocol.calls import SUBMIT_FLAGS
from bgpy.protocol.failures import load_failure
from bgpy.protocol.frames import FLAG_AWAIT, FLAG_CONFIRM, FLAG_MORE, Frame
from bgpy.protocol.messages import MessageType, PayloadFields, dump, load
from bgpy.serving.requests import Request
from bgpy.serving.service import Service
from bgpy.sockets import ClientSocket
from bgpy.taskset import TaskSet, concurrent

INSTANCE = b"i" * 16
Args = dict[str, Any]


class FakeAnswer:
    """Keep the parts of an answer."""

    connected = True
    sending = False

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.ended = False
        self.confirmed = threading.Event()

    def send(self, kind: int, flags: int, payload: PayloadFields) -> None:
        if self.ended:
            raise LocalProtocolError("The last part is out")
        self.ended = not flags & FLAG_MORE
        self.parts.append(load_failure(payload[0]) if kind == MessageType.ERROR else load(payload[0]) if payload[0] else "end")
        self.confirmed.set()


class FakeOpening:
    peer_max_size = 1 << 20
    peer_python = "3.11"


def request(message: object, kind: MessageType = MessageType.EXEC, flags: int = FLAG_AWAIT) -> tuple[Request, FakeAnswer]:
    answer = FakeAnswer()
    frame = Frame(kind, flags, 0, 1, dump(message).pickle, [])
    return Request(frame, answer, FakeOpening()), answer  # type: ignore[arg-type]


def handle(service: Service, made: Request, handler: Callable[[Request], None]) -> None:
    """Do as a conversation does."""
    try:
        handler(made)
    except Exception as error:  # noqa: BLE001 - as it does
        service.settle_failed(made, error)


def run(service: Service, message: object, flags: int = FLAG_AWAIT) -> list[Any]:
    """Execute a request to its end; return the parts of its answer."""
    made, answer = request(message, flags=flags)
    handle(service, made, service.execute)
    assert answer.ended
    return answer.parts


class Counter:
    """Tasks that wait at a gate where `hold` is said."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()
        self.init_begun = threading.Event()
        self.init_open = threading.Event()
        self.init_open.set()
        self.exited_with: Any = None

    def init(self) -> Args:
        self.init_begun.set()
        assert self.init_open.wait(20)
        return {"seen": []}

    def exec(self, client_socket: ClientSocket, state: Args, args: Args) -> Args:
        if args.get("hold"):
            self.begun.set()
            assert self.open.wait(20)
        if args.get("raise"):
            raise ValueError(args["raise"])
        state = {"seen": [*state["seen"], args["number"]]}
        client_socket.respond(state)
        return state

    def exit(self, client_socket: ClientSocket, state: Args, args: Args) -> None:
        self.exited_with = (state, args)

    @property
    def tasks(self) -> TaskSet:
        return TaskSet(self.init, self.exec, self.exit)


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture
def service(counter: Counter) -> Iterator[Service]:
    made = Service(INSTANCE)
    made.start(counter.tasks)
    yield made
    counter.open.set()
    made.deadlines.close()


def test_the_state_is_what_the_last_task_returned(service: Service) -> None:
    assert run(service, {"number": 1}) == [{"seen": [1]}]
    assert isinstance(run(service, {"raise": "no"})[0].__cause__, ValueError)
    assert run(service, {"number": 2}) == [{"seen": [1, 2]}]
    assert run(service, {"number": 3}, FLAG_CONFIRM) == [{"message": "Received 'EXEC'"}, "end"]
    assert run(service, {"number": 4}, SUBMIT_FLAGS) == [{"message": "Received 'EXEC'"}, {"seen": [1, 2, 3, 4]}]


def test_requests_are_confirmed_while_they_wait_and_run_in_the_order_of_their_tickets(service: Service, counter: Counter) -> None:
    with ThreadPoolExecutor(20) as threads:
        first, _ = request({"number": 0, "hold": True})
        threads.submit(handle, service, first, service.execute)
        assert counter.begun.wait(20)
        answers = []
        for number in range(1, 12):
            made, answer = request({"number": number}, flags=SUBMIT_FLAGS)
            answers.append(answer)
            threads.submit(handle, service, made, service.execute)
            assert answer.confirmed.wait(20)  # it has its ticket
        counter.open.set()
    assert [answer.parts[-1]["seen"][-1] for answer in answers] == list(range(1, 12))
    assert answers[-1].parts[-1]["seen"] == list(range(12))


def test_a_request_that_came_while_the_init_task_ran_runs_after_it(counter: Counter) -> None:
    service = Service(INSTANCE)
    counter.init_open.clear()
    with ThreadPoolExecutor(2) as threads:
        started = threads.submit(service.start, counter.tasks)
        assert counter.init_begun.wait(20)
        early = threads.submit(run, service, {"number": 1}, SUBMIT_FLAGS)
        counter.init_open.set()
        started.result(20)
        assert early.result(20) == [{"message": "Received 'EXEC'"}, {"seen": [1]}]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"init_task": len, "exec_task": len}, "exit_task"),
        ({"init_task": len, "exec_task": len, "exit_task": 1}, "callable"),
        ([], "dict"),
    ],
)
def test_an_init_message_that_holds_no_tasks_is_refused(message: object, text: str) -> None:
    service = Service(INSTANCE)
    made, answer = request(message, MessageType.INIT)
    handle(service, made, service.initialize)
    assert text in str(answer.parts[0])
    assert answer.parts[0].executed is False
    assert service.status()["initialized"] is False
    assert service.turns.draw().granted


def test_an_error_of_ours_reaches_the_client_too(service: Service) -> None:
    def fail(request: Request) -> None:
        raise KeyError("a mistake of the server's own")

    made, answer = request({})
    handle(service, made, fail)
    assert "a mistake of the server's own" in str(answer.parts[0])
    assert service.status()["failed"] == 1


def test_only_the_last_failures_are_remembered_and_long_texts_are_cut(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    for number in range(25):
        run(service, {"raise": f"{number} " + "x" * 5000})
    status = service.status()
    assert status["failed"] == 25
    assert [failure["error"].split()[1] for failure in status["failures"]] == [str(number) for number in range(5, 25)]
    assert {len(failure["error"]) for failure in status["failures"]} == {1000}


def test_no_request_begins_after_the_last_ticket_and_the_exit_task_gets_the_last_state(
    service: Service, counter: Counter
) -> None:
    run(service, {"number": 1})
    with service.close():
        refused = run(service, {"number": 2})[0]
        assert isinstance(refused, ServerEndingError)
        assert refused.executed is False
        assert service.exit(ClientSocket(None, None, 0), {"last": True}) is None
    assert counter.exited_with == ({"seen": [1]}, {"last": True})


def test_a_server_without_tasks_has_no_exit_task() -> None:
    assert Service(INSTANCE).exit(ClientSocket(None, None, 0), {}) is None


def concurrent_service(task: Callable[..., Any]) -> Service:
    service = Service(INSTANCE)
    service.start(TaskSet(lambda: {}, concurrent(task), lambda *args: None))
    return service


def test_the_end_waits_for_concurrent_tasks_and_refuses_new_ones() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def task(client_socket: ClientSocket, state: Args, args: Args) -> None:
        begun.set()
        assert go_on.wait(20)
        client_socket.respond({"done": True})

    service = concurrent_service(task)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(run, service, {})
        assert begun.wait(20)
        service.close()
        assert not service.wait_for_concurrent(0.02)
        assert isinstance(run(service, {})[0], ServerEndingError)
        go_on.set()
        assert service.wait_for_concurrent(20)
        assert running.result(20) == [{"done": True}]


def test_a_deferred_request_that_is_answered_already_has_no_deadline() -> None:
    def task(client_socket: ClientSocket, state: Args, args: Args) -> None:
        client_socket.defer(args["timeout"])
        if args["respond"]:
            client_socket.respond({"done": True})

    service = concurrent_service(task)
    assert run(service, {"timeout": 3600, "respond": True}) == [{"done": True}]
    made, answer = request({"timeout": 3600, "respond": False})
    handle(service, made, service.execute)
    assert not answer.ended
    assert service.deadlines.close() == [made]
    made.expire()
    assert isinstance(answer.parts[0], NoResponseError)


def test_a_request_whose_answer_is_seen_to_has_no_deadline() -> None:
    sockets: list[ClientSocket] = []

    def task(client_socket: ClientSocket, state: Args, args: Args) -> None:
        client_socket.defer(None)
        sockets.append(client_socket)

    service = concurrent_service(task)
    made, answer = request({})
    handle(service, made, service.execute)
    assert not answer.ended
    assert service.deadlines.close() == []
    sockets[0].respond({"done": True})
    assert answer.ended


class Noting:
    """Notes, when it is unpickled and when its task runs, whose state the thread holds."""

    seen: ClassVar[list[tuple[bytes, ...]]] = []

    def __reduce__(self) -> Any:
        return note, ()


def note(*args: Any) -> Args:
    Noting.seen.append(held_instances.get())
    return {}


def test_a_task_knows_whose_state_its_thread_holds() -> None:
    """The thread of a connection holds its server's; a concurrent task, and what comes for it, holds none."""
    Noting.seen.clear()

    def task(client_socket: ClientSocket, state: Args, args: Args) -> Args:
        client_socket.respond(note())
        return state

    service = Service(INSTANCE)
    service.start(TaskSet(lambda: note(), task, lambda *args: None))
    assert held_instances.get() == ()
    token = held_instances.set((INSTANCE,))
    try:
        run(service, {"noting": Noting()})
        run(concurrent_service(task), {"noting": Noting()})
        assert held_instances.get() == (INSTANCE,)
    finally:
        held_instances.reset(token)
    assert Noting.seen == [(INSTANCE,), (INSTANCE,), (INSTANCE,), (), ()]


class Interrupting:
    """Unpickling it raises what no except Exception catches."""

    def __reduce__(self) -> Any:
        return interrupt, ()


def interrupt() -> None:
    raise KeyboardInterrupt


def test_arguments_that_interrupt_their_unpickling_do_not_keep_the_turn(service: Service) -> None:
    """The ticket was drawn before: without its turn taken and passed on nobody would ever run again."""
    (failure,) = run(service, {"number": 1, "value": Interrupting()})
    assert isinstance(failure, BgpyError)
    assert failure.executed is False
    assert run(service, {"number": 2}) == [{"seen": [2]}]
