"""
A Python process with a life of its own: start a detached server that keeps state, and talk to it with dicts of Python objects.

The public names are loaded when they are first used, so that ``import bgpy`` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgpy._version import __version__
from bgpy.lazy import lazy_names

if TYPE_CHECKING:
    from bgpy.aio import AsyncClient
    from bgpy.attach import connect, start
    from bgpy.client import Client
    from bgpy.errors import (
        AlreadyInitializedError,
        AnswerLostError,
        AuthenticationError,
        BgpyError,
        ClientClosedError,
        ClusterError,
        ConnectError,
        ConnectionLostError,
        ExitSkippedError,
        InvalidResultError,
        JobFailedError,
        LocalProtocolError,
        MessageTooLargeError,
        MissingExtraError,
        ModelDataError,
        ModelError,
        ModelInputError,
        ModelLoadError,
        ModelNotFoundError,
        NameTakenError,
        NoResponseError,
        NotInitializedError,
        OverloadedError,
        OwnServerError,
        PlaceholderNotFoundError,
        PredictionFailedError,
        ProtocolError,
        PythonVersionError,
        RefusedError,
        RemoteError,
        RemoteProtocolError,
        RequestTimeoutError,
        ResponseError,
        SerializationError,
        ServerEndingError,
        ServerNotFoundError,
        ServerStartError,
        SessionNotFoundError,
        StoreError,
        TlsError,
        TokenError,
        VersionMismatchError,
        WorkspaceNotFoundError,
        WslError,
    )
    from bgpy.server import Server
    from bgpy.sockets import ClientSocket, respond
    from bgpy.taskset import TaskSet, concurrent
    from bgpy.tls import Certificates
    from bgpy.token import token_create

_HOMES = {
    "AsyncClient": "bgpy.aio",
    "Certificates": "bgpy.tls",
    "Client": "bgpy.client",
    "ClientSocket": "bgpy.sockets",
    "Server": "bgpy.server",
    "TaskSet": "bgpy.taskset",
    "concurrent": "bgpy.taskset",
    "connect": "bgpy.attach",
    "respond": "bgpy.sockets",
    "start": "bgpy.attach",
    "token_create": "bgpy.token",
}

__all__ = [
    "AlreadyInitializedError",
    "AnswerLostError",
    "AsyncClient",
    "AuthenticationError",
    "BgpyError",
    "Certificates",
    "Client",
    "ClientClosedError",
    "ClientSocket",
    "ClusterError",
    "ConnectError",
    "ConnectionLostError",
    "ExitSkippedError",
    "InvalidResultError",
    "JobFailedError",
    "LocalProtocolError",
    "MessageTooLargeError",
    "MissingExtraError",
    "ModelDataError",
    "ModelError",
    "ModelInputError",
    "ModelLoadError",
    "ModelNotFoundError",
    "NameTakenError",
    "NoResponseError",
    "NotInitializedError",
    "OverloadedError",
    "OwnServerError",
    "PlaceholderNotFoundError",
    "PredictionFailedError",
    "ProtocolError",
    "PythonVersionError",
    "RefusedError",
    "RemoteError",
    "RemoteProtocolError",
    "RequestTimeoutError",
    "ResponseError",
    "SerializationError",
    "Server",
    "ServerEndingError",
    "ServerNotFoundError",
    "ServerStartError",
    "SessionNotFoundError",
    "StoreError",
    "TaskSet",
    "TlsError",
    "TokenError",
    "VersionMismatchError",
    "WorkspaceNotFoundError",
    "WslError",
    "__version__",
    "concurrent",
    "connect",
    "respond",
    "start",
    "token_create",
]


__getattr__ = lazy_names(__name__, {name: "bgpy.errors" for name in __all__ if name.endswith("Error")} | _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
