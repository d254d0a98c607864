"""The tree of bgpy/errors.py, and what each of its errors carries across processes."""

from __future__ import annotations

import inspect
import pickle
import re
from pathlib import Path

import pytest

from bgpy import errors
from bgpy.errors import BgpyError

#: One error of each class with its fields, and how it ends: with what the user can do.
SAMPLES: dict[str, tuple[BgpyError, str]] = {
    "BgpyError": (BgpyError("anything"), "anything"),
    "ConnectError": (errors.ConnectError("127.0.0.1:1", "refused"), "(bgpy list)."),
    "ConnectionLostError": (
        errors.ConnectionLostError("h:1", "reset", None),
        "look at the server's state before sending it again.",
    ),
    "RequestTimeoutError": (errors.RequestTimeoutError(0.5, "a response", None), "the wait was given up, not the request."),
    "ClientClosedError": (errors.ClientClosedError(), "Make a new Client."),
    "OwnServerError": (errors.OwnServerError("h:1"), "or mark the task with @bgpy.concurrent."),
    "AuthenticationError": (errors.AuthenticationError("h:1", "wrong token"), "Use the token that the server was started with."),
    "TokenError": (errors.TokenError("The file is empty", "Remove it."), "Remove it."),
    "TlsError": (errors.TlsError("No certificate", "Give one"), "Give one."),
    "ProtocolError": (errors.ProtocolError("Broken"), "Broken."),
    "LocalProtocolError": (errors.LocalProtocolError("Sent too early"), "Sent too early."),
    "RemoteProtocolError": (errors.RemoteProtocolError("No magic; is it bgpy?"), "is it bgpy?."),
    "VersionMismatchError": (errors.VersionMismatchError("1", "2-3"), "Install the same version of bgpy on both sides."),
    "MessageTooLargeError": (errors.MessageTooLargeError(10**10, 10**9, True), "on both sides."),
    "SerializationError": (
        errors.SerializationError("No such module", "model", "shop"),
        "Install the module 'shop' on the side that lacks it.",
    ),
    "PythonVersionError": (errors.PythonVersionError("3.11", "3.12"), "or use the same Python."),
    "AlreadyInitializedError": (errors.AlreadyInitializedError(), "or terminate it first."),
    "NotInitializedError": (errors.NotInitializedError(), "Call Client.initialize(init_task, exec_task, exit_task) first."),
    "RemoteError": (errors.RemoteError("KeyError", "'x'", "Traceback: ...\n  line 1"), "  line 1"),
    "InvalidResultError": (errors.InvalidResultError("exec_task", "list"), "Return the state from the task."),
    "NoResponseError": (errors.NoResponseError(), "or do not await a response."),
    "AnswerLostError": (errors.AnswerLostError("too large to keep"), "do not send the request again."),
    "ResponseError": (errors.ResponseError("The last response is out; use more=True"), "use more=True."),
    "OverloadedError": (errors.OverloadedError("no memory"), "Try again later."),
    "ServerEndingError": (errors.ServerEndingError(), "the request did not run."),
    "ExitSkippedError": (errors.ExitSkippedError(10.0), "the state was still in use after 10 s."),
    "ServerStartError": (errors.ServerStartError("port in use", "", "/tmp/log"), "Its log: /tmp/log."),
    "NameTakenError": (errors.NameTakenError("models", 17), "or terminate that server first."),
    "ServerNotFoundError": (errors.ServerNotFoundError("models", ("one", "two")), "Start one with bgpy.start('models', ...)."),
    "RefusedError": (errors.RefusedError("push_job needs the field 'job'", "job"), "push_job needs the field 'job'."),
    "WorkspaceNotFoundError": (errors.WorkspaceNotFoundError("lab"), "create_workspace makes one."),
    "PlaceholderNotFoundError": (errors.PlaceholderNotFoundError("x"), "list_placeholders names those that there are."),
    "SessionNotFoundError": (errors.SessionNotFoundError("12ab"), "It was never started, or has been forgotten."),
    "JobFailedError": (errors.JobFailedError("lab", 3, "failed", "KeyError", "'x'", "Traceback: ...\n  line 1"), "  line 1"),
    "PredictionFailedError": (
        errors.PredictionFailedError("12ab", 3, "failed", "KeyError", "'x'", "Traceback: ...\n  line 1"),
        "  line 1",
    ),
    "ModelError": (errors.ModelError("It is broken. Mend it."), "It is broken. Mend it."),
    "ModelLoadError": (errors.ModelLoadError("There is no model in x. Give a folder."), "Give a folder."),
    "ModelNotFoundError": (errors.ModelNotFoundError("No model is deployed: deploy one first."), "deploy one first."),
    "ModelInputError": (errors.ModelInputError("There is no input 'z'; it has x: float32 [?, 2]."), "it has x: float32 [?, 2]."),
    "ModelDataError": (errors.ModelDataError("There is no file x.csv."), "There is no file x.csv."),
    "StoreError": (errors.StoreError("jobs.db", "no space left", "Make room and try again"), "Make room and try again."),
    "ClusterError": (errors.ClusterError("auto", "there is none", "Start one"), "there is none. Start one."),
    "WslError": (errors.WslError("No wsl.exe", ("wsl.exe", "PATH")), "Run bgpy doctor for what this machine allows."),
    "MissingExtraError": (errors.MissingExtraError("The gateway", "gateway"), 'pip install "bgpy[gateway]"'),
}

CLASSES = {name: value for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, BaseException)}


def tree_in_the_docstring() -> dict[str, tuple[str | None, str | None]]:
    """Return for each name in the drawn tree its parent there and the builtin in its brackets."""
    tree: dict[str, tuple[str | None, str | None]] = {}
    path: list[str] = []
    for match in re.finditer(r"^    ((?:│  |   )*(?:[├└]─ )?)(\w+Error)(?:\((\w+)\))?", str(errors.__doc__), re.MULTILINE):
        depth = len(match[1]) // 3
        del path[depth:]
        tree[match[2]] = (path[-1] if path else None, match[3])
        path.append(match[2])
    return tree


def tree_of_classes() -> dict[str, tuple[str | None, str | None]]:
    tree: dict[str, tuple[str | None, str | None]] = {"BgpyError": (None, None)}
    for name, value in CLASSES.items():
        if value is not BgpyError:
            builtin = next((base.__name__ for base in value.__bases__ if base.__module__ == "builtins"), None)
            tree[name] = (value.__bases__[0].__name__, builtin)
    return tree


def test_the_drawn_tree_is_the_tree_of_classes() -> None:
    assert tree_in_the_docstring() == tree_of_classes()


def test_every_error_has_a_sample() -> None:
    assert set(SAMPLES) == set(CLASSES)
    assert all(type(error).__name__ == name for name, (error, _) in SAMPLES.items())


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", SAMPLES)
def test_an_error_comes_back_from_a_pickle_with_fields_and_text(name: str, protocol: int) -> None:
    error, _ = SAMPLES[name]
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is type(error)
    assert copy.args == error.args
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)
    assert copy.executed == error.executed


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "BgpyError"])
def test_every_field_is_an_attribute_and_in_args(name: str) -> None:
    error, _ = SAMPLES[name]
    fields = list(inspect.signature(type(error)).parameters) if type(error).__init__ is not Exception.__init__ else []
    fields = [field for field in fields if field not in ("args", "kwargs")]
    assert tuple(getattr(error, field) for field in fields) == error.args


@pytest.mark.parametrize("executed", [True, False, None])
def test_an_error_that_is_one_of_the_system_keeps_its_third_field(executed: bool | None) -> None:
    """It was taken for the name of a file, unless it was None."""
    assert errors.ConnectionLostError("h:1", "reset", executed).args == ("h:1", "reset", executed)
    assert errors.RequestTimeoutError(0.5, "a response", executed).args == (0.5, "a response", executed)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_text_ends_with_what_to_do(name: str) -> None:
    error, ending = SAMPLES[name]
    assert str(error).endswith(ending)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            errors.ConnectionLostError("h:1", "reset", True),
            "Lost the connection to h:1: reset. The request ran; do not send it again.",
        ),
        (
            errors.ConnectionLostError("h:1", "reset", False),
            "Lost the connection to h:1: reset. The request did not run; it can be sent again.",
        ),
        (errors.RequestTimeoutError(2, "a connection", False), "Waited 2 s for a connection. It was not sent."),
        (errors.SerializationError("Cannot pickle a lock", "guard"), "Cannot pickle a lock (key 'guard')."),
        (errors.NameTakenError("m", None), "The name 'm' is taken. Use bgpy.connect('m'), or terminate that server first."),
        (errors.WslError("This is not WSL"), "This is not WSL. Run bgpy doctor for what this machine allows."),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BgpyError) else "",
)
def test_the_text_follows_the_fields(error: BgpyError, text: str) -> None:
    assert str(error) == text


@pytest.mark.parametrize("name", [name for name, (_, builtin) in tree_in_the_docstring().items() if builtin])
def test_an_error_is_caught_as_the_builtin_that_it_names(name: str) -> None:
    builtin = {
        "ConnectionError": ConnectionError,
        "TimeoutError": TimeoutError,
        "LookupError": LookupError,
        "ImportError": ImportError,
        "ValueError": ValueError,
    }
    with pytest.raises(builtin[str(tree_in_the_docstring()[name][1])]):
        raise SAMPLES[name][0]


def test_the_page_of_errors_names_every_error_once() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "errors.rst").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\.\. autoexception:: bgpy\.errors\.(\w+)$", page, re.MULTILINE)) == sorted(CLASSES)


@pytest.mark.parametrize(
    ("state", "text"),
    [("failed", "failed: KeyError: 'x'"), ("crashed", "crashed"), ("timed_out", "was timed out"), ("killed", "was killed")],
)
def test_job_that_did_not_run_through_says_how_it_ended(state: str, text: str) -> None:
    raised = ("KeyError", "'x'") if state == "failed" else ()
    assert str(errors.JobFailedError("lab", 3, state, *raised)) == f"Job 3 of workspace 'lab' {text}"
    assert str(errors.PredictionFailedError("12ab", 3, state, *raised)) == f"A prediction of the session '12ab' {text}"
