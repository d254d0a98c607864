"""Errors on the wire: ours by name and fields, the task's own where it can travel, and nothing else is ever built."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from bgpy import errors
from bgpy.errors import BgpyError, ConnectionLostError, NoResponseError, RemoteError, RemoteProtocolError, SerializationError
from bgpy.protocol import failures
from bgpy.protocol.failures import MAX_EXCEPTION, MAX_TEXT, dump_failure, load_failure, remote_error
from bgpy.protocol.messages import dump, load

#: One of each class, with every field set.
SAMPLES: list[BgpyError] = [
    errors.ConnectError("a:1", "reason"),
    errors.ConnectionLostError("a:1", "reason", None),
    errors.RequestTimeoutError(1.5, "something", None),
    errors.ClientClosedError(),
    errors.OwnServerError("a:1"),
    errors.AuthenticationError("a:1", "reason"),
    errors.TokenError("reason", "mend"),
    errors.TlsError("reason", "mend"),
    errors.ProtocolError("reason"),
    errors.LocalProtocolError("reason"),
    errors.RemoteProtocolError("reason"),
    errors.VersionMismatchError("1", "2"),
    errors.MessageTooLargeError(2, 1, True),
    errors.SerializationError("reason", "key", "module", True),
    errors.PythonVersionError("3.10", "3.11"),
    errors.AlreadyInitializedError(),
    errors.NotInitializedError(),
    errors.RemoteError("ValueError", "text", "trace"),
    errors.InvalidResultError("exec_task", "int"),
    errors.NoResponseError(),
    errors.AnswerLostError("reason"),
    errors.ResponseError("reason"),
    errors.OverloadedError("reason"),
    errors.ServerEndingError(),
    errors.ExitSkippedError(1.0),
    errors.ServerStartError("reason", "trace", "log"),
    errors.NameTakenError("models", 7),
    errors.ServerNotFoundError("models", ("a", "b")),
    errors.RefusedError("reason", "field"),
    errors.WorkspaceNotFoundError("lab"),
    errors.JobFailedError("lab", 3, "failed", "ValueError", "text", "trace"),
    errors.PredictionFailedError("12ab", 3, "failed", "ValueError", "text", "trace"),
    errors.ModelError("There is no model in x. Give a folder."),
    errors.ModelInputError("There is no model in x. Give a folder."),
    errors.ModelDataError("x.csv is no file. Give the path of one."),
    errors.PlaceholderNotFoundError("message"),
    errors.SessionNotFoundError("12"),
    errors.ModelLoadError("There is no model in x. Give a folder."),
    errors.ModelNotFoundError("There is no model in x. Give a folder."),
    errors.StoreError("jobs.db", "reason", "mend"),
    errors.ClusterError("auto", "reason", "mend"),
    errors.WslError("reason", ("a",)),
    errors.MissingExtraError("feature", "extra"),
    errors.BgpyError("text"),
]


class Hostile(Exception):
    """An exception that cannot be pickled and has no text."""

    def __reduce__(self) -> Any:
        raise RuntimeError("no pickle")

    def __str__(self) -> str:
        raise RuntimeError("no text")


class KeywordOnly(Exception):
    def __init__(self, *, value: int) -> None:
        super().__init__(value)


def raised(exception: BaseException) -> BaseException:
    """Give an exception a traceback."""
    try:
        raise exception
    except BaseException as caught:  # noqa: BLE001 - it comes back
        return caught


def travel(failure: BgpyError, exception: BaseException | None = None) -> BgpyError:
    return load_failure(dump_failure(failure, exception).pickle)


def test_there_is_a_sample_of_every_error() -> None:
    names = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, BgpyError)}
    assert {type(sample).__name__ for sample in SAMPLES} == names


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
@pytest.mark.parametrize("executed", [True, False, None])
def test_every_error_arrives_with_its_fields_its_text_and_whether_the_request_ran(
    sample: BgpyError, executed: bool | None
) -> None:
    sample = pickle.loads(pickle.dumps(sample))
    sample.executed = executed
    arrived = travel(sample)
    assert type(arrived) is type(sample)
    assert str(arrived) == str(sample)
    assert vars(arrived) == vars(sample)
    assert arrived.__cause__ is None


def test_the_exception_of_the_task_is_the_cause() -> None:
    original = raised(ValueError("text", 5))
    arrived = travel(remote_error(original), original)
    assert isinstance(arrived, RemoteError)
    assert (arrived.type_name, arrived.message, arrived.executed) == ("ValueError", "('text', 5)", True)
    assert arrived.traceback_text.startswith("Traceback (most recent call last):")
    assert "raise exception" in arrived.traceback_text
    assert type(arrived.__cause__) is ValueError
    assert arrived.__cause__.args == ("text", 5)


@pytest.mark.parametrize("exception", [SystemExit(3), KeyboardInterrupt()])
def test_an_exception_that_ends_programs_is_a_cause_like_any_other(exception: BaseException) -> None:
    arrived = travel(remote_error(raised(exception)), exception)
    assert type(arrived.__cause__) is type(exception)


def test_an_exception_that_cannot_be_pickled_is_told_by_its_three_strings() -> None:
    payload = dump_failure(remote_error(raised(Hostile())), Hostile())
    arrived = load_failure(payload.pickle)
    assert isinstance(arrived, RemoteError)
    assert arrived.type_name.endswith("test_failures.Hostile")
    assert arrived.message == "<no message: its __str__ raised RuntimeError>"
    assert "Hostile" in arrived.traceback_text
    assert arrived.__cause__ is None
    assert not payload.by_value


@pytest.mark.parametrize("raised_by_str", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_an_exception_whose_text_ends_the_program_is_told_all_the_same(raised_by_str: type[BaseException]) -> None:
    class Ending(Exception):
        def __str__(self) -> str:
            raise raised_by_str

    told = remote_error(raised(Ending()))
    assert told.type_name.endswith("Ending")
    assert told.message == f"<no message: its __str__ raised {raised_by_str.__name__}>"
    assert told.traceback_text


def test_an_exception_that_cannot_be_unpickled_is_told_by_its_three_strings() -> None:
    arrived = travel(remote_error(raised(KeywordOnly(value=1))), KeywordOnly(value=1))
    assert isinstance(arrived, RemoteError)
    assert (arrived.message, arrived.__cause__) == ("1", None)


def test_an_exception_made_on_the_spot_travels_by_value_and_says_so() -> None:
    made = type("Made", (Exception,), {"__module__": "__main__"})
    payload = dump_failure(remote_error(raised(made("text"))), made("text"))
    assert payload.by_value
    arrived = load_failure(payload.pickle)
    assert type(arrived.__cause__).__name__ == "Made"
    assert isinstance(arrived, RemoteError)
    assert arrived.type_name == "__main__.Made"


@pytest.mark.parametrize("over", [0, 1])
def test_a_huge_exception_stays_behind(over: int) -> None:
    exception = ValueError(bytes(MAX_EXCEPTION))
    exception = ValueError(bytes(2 * MAX_EXCEPTION - len(dump({"exception": exception}).pickle) + over))
    assert len(dump({"exception": exception}).pickle) == MAX_EXCEPTION + over
    payload = dump_failure(NoResponseError(), exception)
    assert (load_failure(payload.pickle).__cause__ is None) is bool(over)
    assert payload.buffers == []


def test_the_buffers_of_an_exception_travel_inside_its_pickle() -> None:
    arrived = travel(NoResponseError(), ValueError(pickle.PickleBuffer(bytes(100_000))))
    assert arrived.__cause__ is not None
    assert arrived.__cause__.args == (bytes(100_000),)


def test_the_strings_are_cut_to_size_and_the_traceback_keeps_its_end() -> None:
    failure = remote_error(raised(ValueError("x" * (2 * MAX_TEXT) + "end")))
    assert failure.message == "x" * MAX_TEXT
    assert len(failure.traceback_text) == MAX_TEXT
    assert failure.traceback_text.endswith("end\n")


def test_a_traceback_that_cannot_be_written_does_not_hide_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("traceback.format_exception", broken)
    failure = remote_error(ValueError("text"))
    assert (failure.message, failure.traceback_text) == ("text", "<no traceback: RuntimeError while it was formatted>")


@pytest.mark.parametrize(
    "message",
    [
        [],
        {},
        {"error": "NoSuchError", "fields": (), "executed": False},
        {"error": "annotations", "fields": (), "executed": False},
        {"error": "os", "fields": (), "executed": False},
        {"error": None, "fields": (), "executed": False},
        {"error": "ConnectError", "executed": False},
        {"error": "ConnectError", "fields": ("too few",), "executed": False},
        {"error": "ConnectError", "fields": None, "executed": False},
        {"error": "ConnectError", "fields": ("a:1", "reason")},
    ],
)
def test_what_is_no_error_of_ours_is_a_protocol_error(message: object) -> None:
    """A class of another version with other fields came out as a TypeError."""
    with pytest.raises(RemoteProtocolError):
        load_failure(dump(message).pickle)


def test_only_classes_of_our_tree_are_built_from_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[object] = []

    class Planted(Exception):
        def __init__(self, value: object) -> None:
            built.append(value)

    monkeypatch.setattr(failures.errors, "planted", Planted, raising=False)
    with pytest.raises(RemoteProtocolError):
        load_failure(dump({"error": "planted", "fields": (1,), "executed": False}).pickle)
    assert built == []


@pytest.mark.parametrize("inner", [[], {}, {"exception": "text"}])
def test_an_opaque_pickle_that_holds_no_exception_is_left_alone(inner: object) -> None:
    message = load(dump_failure(NoResponseError()).pickle)
    assert isinstance(message, dict)
    arrived = load_failure(dump({**message, "exception": bytes(dump(inner).pickle)}).pickle)
    assert type(arrived) is NoResponseError
    assert arrived.__cause__ is None


def test_what_is_no_pickle_is_a_serialization_error() -> None:
    with pytest.raises(SerializationError):
        load_failure(b"\x80nonsense")


def test_whether_it_ran_is_what_the_server_says_not_what_the_class_says() -> None:
    failure = ConnectionLostError("a:1", "reason", None)
    failure.executed = True
    assert travel(failure).executed is True
