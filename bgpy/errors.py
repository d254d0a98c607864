"""
Every exception of the package, in one tree.

::

    BgpyError
    ├─ ConnectError(ConnectionError)          nobody to talk to; nothing was sent
    ├─ ConnectionLostError(ConnectionError)   broken under way; `executed` says what became of the request
    ├─ RequestTimeoutError(TimeoutError)      the wait was given up, not the request
    ├─ ClientClosedError                      this client was closed
    ├─ OwnServerError                         a task called the server that waits for that very task
    ├─ AuthenticationError                    one side could not prove the token
    ├─ TokenError                             a token or its file cannot be used
    ├─ TlsError                               TLS cannot be used as asked for
    ├─ ProtocolError
    │  ├─ LocalProtocolError                  this side broke a rule
    │  ├─ RemoteProtocolError                 the other side did
    │  ├─ VersionMismatchError                no common protocol version
    │  └─ MessageTooLargeError                above a limit of either side
    ├─ SerializationError                     something could not be pickled or unpickled
    │  └─ PythonVersionError                  code by value between different minor versions
    ├─ AlreadyInitializedError                the server has its tasks
    ├─ NotInitializedError                    the server has no tasks yet
    ├─ RemoteError                            a task raised
    ├─ InvalidResultError                     a task returned something other than a dict
    ├─ NoResponseError                        a task ended without the response that was awaited
    ├─ AnswerLostError                        the request ran, its answer is gone
    ├─ ResponseError                          a task responded twice, or with something other than a dict
    ├─ OverloadedError                        the server has no room for the request now
    ├─ ServerEndingError                      the server ends; the request did not begin
    ├─ ExitSkippedError                       the server ended without its exit task
    ├─ ServerStartError                       a server could not be started
    │  └─ NameTakenError                      another server holds that name
    ├─ ServerNotFoundError(LookupError)       no running server of that name or address
    ├─ RefusedError                           a command or one of its fields has a wrong shape; nothing was done
    │  ├─ WorkspaceNotFoundError(LookupError) no workspace of that name
    │  ├─ PlaceholderNotFoundError(LookupError) a run has no placeholder of that name
    │  └─ SessionNotFoundError(LookupError)   no run session of that id
    ├─ JobFailedError                         a job in a workspace did not run through
    │  └─ PredictionFailedError               a prediction of a run's model did not
    ├─ ModelError                             a model cannot be loaded, or cannot do what it was asked for
    │  ├─ ModelLoadError                      the path has no model that can be loaded, or weights that do not fit
    │  ├─ ModelNotFoundError(LookupError)     no model is deployed, or not in that version, or it has no such signature
    │  ├─ ModelInputError(ValueError)         a wrong name, dtype or shape, or a body that breaks the protocol's rules
    │  └─ ModelDataError(ValueError)          data, or a file of data, that a model of a run cannot be given
    ├─ StoreError                             jobs and results cannot be kept
    ├─ ClusterError                           a Ray cluster cannot be used, or could not do what it was asked for
    ├─ WslError                               the other side of WSL could not be reached
    └─ MissingExtraError(ImportError)         an optional dependency is not installed

Every field is an attribute, and in ``args``, which pickle calls the class with, in the order of the constructor. The text is
`_text` with the fields, or what `__str__` builds of them, and says what to do next. An error that answers a request has
`executed`: True (the request ran or runs), False (it did not and will not), None (nobody can know).
"""

from __future__ import annotations


class BgpyError(Exception):
    """Be the root of all errors of this package."""

    #: Whether the request that this error answers ran: True, False, or None where nobody can know.
    executed: bool | None = False
    #: The text, with fields in braces; "" where `__str__` builds it, or says what was given.
    _text = ""

    def __str__(self) -> str:
        return self._text.format_map(vars(self)) if self._text else super().__str__()


class ConnectError(BgpyError, ConnectionError):
    """Say that no connection could be made; nothing was sent."""

    _text = "Cannot connect to {address}: {reason}. Check host and port, and that the server runs (bgpy list)."

    def __init__(self, address: str, reason: str) -> None:
        self.args = self.address, self.reason = address, reason


class ConnectionLostError(BgpyError, ConnectionError):
    """Say that the connection broke and could not be taken up again; see `executed`."""

    def __init__(self, address: str, reason: str, executed: bool | None) -> None:
        self.args = self.address, self.reason, self.executed = address, reason, executed

    def __str__(self) -> str:
        outcome = {
            True: "The request ran; do not send it again",
            False: "The request did not run; it can be sent again",
            None: "Nobody can know whether the request ran; look at the server's state before sending it again",
        }[self.executed]
        return f"Lost the connection to {self.address}: {self.reason}. {outcome}."


class RequestTimeoutError(BgpyError, TimeoutError):
    """Say that the wait was given up; the request itself goes on where `executed` is None."""

    def __init__(self, timeout: float, waited_for: str, executed: bool | None) -> None:
        self.args = self.timeout, self.waited_for, self.executed = timeout, waited_for, executed

    def __str__(self) -> str:
        outcome = "It was not sent" if self.executed is False else "It may still run: the wait was given up, not the request"
        return f"Waited {self.timeout:g} s for {self.waited_for}. {outcome}."


class ClientClosedError(BgpyError):
    """Say that a closed client was asked for something."""

    _text = "This client is closed. Make a new Client."


class OwnServerError(BgpyError):
    """Say that a task called the server that is waiting for that very task to end."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.address = address

    def __str__(self) -> str:
        what = f"A task of the server at {self.address} called its own server, which would wait for that task for ever"
        return f"{what}. Change the state that the task was given, or mark the task with @bgpy.concurrent."


class AuthenticationError(BgpyError):
    """Say that one side could not prove that it knows the token."""

    _text = "No proof of the token with {address}: {reason}. {mend}."

    def __init__(self, address: str, reason: str, mend: str = "Use the token that the server was started with") -> None:
        self.args = self.address, self.reason, self.mend = address, reason, mend


class TokenError(BgpyError):
    """Say that a token, or the file it is kept in, cannot be used."""

    _text = "{reason}. {mend}"

    def __init__(self, reason: str, mend: str) -> None:
        self.args = self.reason, self.mend = reason, mend


class TlsError(BgpyError):
    """Say that TLS cannot be used as it was asked for."""

    _text = "{reason}. {mend}."

    def __init__(self, reason: str, mend: str) -> None:
        self.args = self.reason, self.mend = reason, mend


class ProtocolError(BgpyError):
    """Say that the rules of docs/protocol.rst were broken."""

    _text = "{reason}."

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class LocalProtocolError(ProtocolError):
    """Say that this side was about to break the protocol."""


class RemoteProtocolError(ProtocolError):
    """Say that the other side broke the protocol; the connection is closed."""


class VersionMismatchError(ProtocolError):
    """Say that both ends have no version of the protocol in common."""

    def __init__(self, ours: str, theirs: str) -> None:
        self.args = self.ours, self.theirs = ours, theirs

    def __str__(self) -> str:
        versions = f"This side speaks protocol version {self.ours}, the other {self.theirs}"
        return f"{versions}. Install the same version of bgpy on both sides."


class MessageTooLargeError(ProtocolError):
    """Say that a message is above the limit of one side; see `executed` for whether its request ran."""

    def __init__(self, size: int, limit: int, executed: bool | None = False) -> None:
        self.args = self.size, self.limit, self.executed = size, limit, executed

    def __str__(self) -> str:
        what = "The request ran, but its answer" if self.executed else "The message"
        return f"{what} has {self.size:,} bytes, the limit is {self.limit:,}. Raise max_message_size on both sides."


class SerializationError(BgpyError):
    """Say that something could not be pickled or unpickled, under which key, and which module is missing."""

    def __init__(self, reason: str, key: str | None = None, module: str | None = None, executed: bool | None = False) -> None:
        self.args = self.reason, self.key, self.module, self.executed = reason, key, module, executed

    def __str__(self) -> str:
        where = f" (key {self.key!r})" if self.key is not None else ""
        missing = f" Install the module {self.module!r} on the side that lacks it." if self.module is not None else ""
        return f"{self.reason}{where}.{missing}"


class PythonVersionError(SerializationError):
    """Say that code by value cannot travel between two minor versions of Python."""

    def __init__(self, ours: str, theirs: str) -> None:
        super(SerializationError, self).__init__(ours, theirs)
        self.reason = "Code sent by value needs the same minor version of Python on both sides"
        self.key = self.module = None
        self.ours, self.theirs = ours, theirs

    def __str__(self) -> str:
        mend = "Put the code in a module that both sides can import, or use the same Python"
        return f"{self.reason}: this is {self.ours}, the other side {self.theirs}. {mend}."


class AlreadyInitializedError(BgpyError):
    """Say that the server has its tasks already."""

    _text = "The server is initialised already. Pass exist_ok=True if that is fine, or terminate it first."


class NotInitializedError(BgpyError):
    """Say that the server has no tasks yet."""

    _text = "The server has no tasks yet. Call Client.initialize(init_task, exec_task, exit_task) first."


class RemoteError(BgpyError):
    """Say that a task raised; `__cause__` is the original exception where it could be unpickled here."""

    executed = True

    def __init__(self, type_name: str, message: str, traceback_text: str) -> None:
        self.args = self.type_name, self.message, self.traceback_text = type_name, message, traceback_text

    def __str__(self) -> str:
        return f"A task raised {self.type_name}: {self.message}\n\n{self.traceback_text}".rstrip()


class InvalidResultError(BgpyError):
    """Say that a task returned something other than a dict; the state is what it was before."""

    executed = True
    _text = "{task} returned {type_name}, not a dict; the state is as before. Return the state from the task."

    def __init__(self, task: str, type_name: str) -> None:
        self.args = self.task, self.type_name = task, type_name


class NoResponseError(BgpyError):
    """Say that the task ended, or its deadline passed, without the response that was awaited."""

    executed = True
    _text = "The task ended without a response. Call respond(client_socket, {{...}}) in the task, or do not await a response."


class AnswerLostError(BgpyError):
    """Say that the request ran and that its answer is gone."""

    executed = True
    _text = "The request ran, but its answer is gone: {reason}. Look at the state; do not send the request again."

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ResponseError(BgpyError):
    """Say, inside a task, that a response cannot be sent: the last one is out, or it is no dict."""

    executed = True
    _text = "{reason}."

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class OverloadedError(BgpyError):
    """Say that the server had no room for the request in time; it did not run."""

    _text = "The server has no room for the request: {reason}. Try again later."

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ServerEndingError(BgpyError):
    """Say that the server is ending and that the request did not begin."""

    _text = "The server is ending; the request did not run."


class ExitSkippedError(BgpyError):
    """Say that the server ended without its exit task, because something still held the state."""

    _text = "The server has ended, but its exit task did not run: the state was still in use after {grace:g} s."

    def __init__(self, grace: float) -> None:
        super().__init__(grace)
        self.grace = grace


class ServerStartError(BgpyError):
    """Say why a server could not be started, in its own words; nothing is left running."""

    def __init__(self, reason: str, traceback_text: str = "", log_file: str | None = None) -> None:
        self.args = self.reason, self.traceback_text, self.log_file = reason, traceback_text, log_file

    def __str__(self) -> str:
        log = f" Its log: {self.log_file}." if self.log_file else ""
        return f"The server did not start: {self.reason.rstrip('.')}.{log}\n\n{self.traceback_text}".rstrip()


class NameTakenError(ServerStartError):
    """Say that a running server holds the name."""

    def __init__(self, name: str, pid: int | None) -> None:
        super(ServerStartError, self).__init__(name, pid)
        self.reason, self.traceback_text, self.log_file = f"the name {name!r} is taken", "", None
        self.name, self.pid = name, pid

    def __str__(self) -> str:
        holder = f" by process {self.pid}" if self.pid else ""
        return f"The name {self.name!r} is taken{holder}. Use bgpy.connect({self.name!r}), or terminate that server first."


class ServerNotFoundError(BgpyError, LookupError):
    """Say that no such server runs, and which ones do."""

    def __init__(self, name: str, running: tuple[str, ...] = ()) -> None:
        self.args = self.name, self.running = name, running

    def __str__(self) -> str:
        others = f"Running: {', '.join(self.running)}" if self.running else "None of your servers runs on this machine"
        return f"No server {self.name!r} runs. {others}. Start one with bgpy.start({self.name!r}, ...)."


class RefusedError(BgpyError):
    """Say that a request to a task set has a wrong shape, and which field is at fault; nothing was done."""

    _text = "{reason}."

    def __init__(self, reason: str, field: str | None = None) -> None:
        self.args = self.reason, self.field = reason, field


class WorkspaceNotFoundError(RefusedError, LookupError):
    """Say that there is no workspace of that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no workspace {name!r}; create_workspace makes one", "name")
        self.args, self.name = (name,), name  # the first is what pickle calls this class with


class PlaceholderNotFoundError(RefusedError, LookupError):
    """Say that a run has no placeholder of that name, or not yet."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no placeholder {name!r}; list_placeholders names those that there are", "name")
        self.args, self.name = (name,), name  # the first is what pickle calls this class with


class SessionNotFoundError(RefusedError, LookupError):
    """Say that there is no run session of that id, or none any more."""

    def __init__(self, session: str) -> None:
        super().__init__(f"Session not found: {session!r:.100}. It was never started, or has been forgotten", "sessionId")
        self.args, self.session = (session,), session  # the first is what pickle calls this class with


class JobFailedError(BgpyError):
    """Say that a job in a workspace did not run through: its state, and what it raised where it did."""

    executed = True
    _what = "Job {} of workspace {!r}"

    def __init__(
        self, workspace: str, number: int, state: str, type_name: str = "", message: str = "", traceback_text: str = ""
    ) -> None:
        super().__init__(workspace, number, state, type_name, message, traceback_text)
        self.workspace, self.number, self.state = workspace, number, state
        self.type_name, self.message, self.traceback_text = type_name, message, traceback_text

    def __str__(self) -> str:
        what = f": {self.type_name}: {self.message}" if self.type_name else ""
        how = self.state if self.state in ("failed", "crashed") else f"was {self.state.replace('_', ' ')}"
        return f"{self._what.format(self.number, self.workspace)} {how}{what}\n\n{self.traceback_text}".rstrip()


class PredictionFailedError(JobFailedError):
    """Say that a prediction of a run's model did not run through; `workspace` is the id of the session."""

    _what = "A prediction of the session {1!r}"


class ModelError(BgpyError):
    """Say what is wrong with a model, or with what it was asked for; `reason` is the whole text."""

    executed = True
    _text = "{reason}"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ModelLoadError(ModelError):
    """Say why a path has no model that can be loaded, or what of its weights does not fit."""


class ModelNotFoundError(ModelError, LookupError):
    """Say that no model is deployed, or not in that version, or that it has no such signature."""


class ModelInputError(ModelError, ValueError):
    """Say which name, dtype or shape is wrong and which the model has, or how a body breaks the rules of its protocol."""


class ModelDataError(ModelError, ValueError):
    """Say why data, or a file of data, is nothing that a model of a run can be given."""


class StoreError(BgpyError):
    """Say that jobs and results cannot be kept: nothing is acknowledged that is not on the disk."""

    _text = "The store {path}: {reason}. {mend}."

    def __init__(self, path: str, reason: str, mend: str) -> None:
        self.args = self.path, self.reason, self.mend = path, reason, mend


class ClusterError(BgpyError):
    """Say why a Ray cluster cannot be used, or what it could not do."""

    def __init__(self, address: str, reason: str, mend: str = "") -> None:
        self.args = self.address, self.reason, self.mend = address, reason, mend

    def __str__(self) -> str:
        return f"The Ray cluster {self.address!r}: {self.reason}.{f' {self.mend}.' if self.mend else ''}"


class WslError(BgpyError):
    """Say why the other side of WSL could not be reached, and what was tried."""

    def __init__(self, reason: str, tried: tuple[str, ...] = ()) -> None:
        self.args = self.reason, self.tried = reason, tried

    def __str__(self) -> str:
        tried = f" Tried: {'; '.join(self.tried)}." if self.tried else ""
        return f"{self.reason}.{tried} Run bgpy doctor for what this machine allows."


class MissingExtraError(BgpyError, ImportError):
    """Say which optional dependency is missing and how to install it."""

    _text = '{feature} needs an optional dependency: pip install "bgpy[{extra}]"'

    def __init__(self, feature: str, extra: str) -> None:
        self.args = self.feature, self.extra = feature, extra
