"""TLS: certificates, and keys made from the token."""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
from support.certificates import Files
from support.peers import FalseServer, read_to_end
from support.proxies import Plan, Proxy
from support.security import TOKEN, WRONG, Args, Trap, trap_frame
from support.servers import COUNTER, Served, background_server, count, dial, running_server, start_count, surviving_server, tasks

from bgpy.client import Client
from bgpy.errors import (
    AuthenticationError,
    BgpyError,
    ConnectError,
    TlsError,
)
from bgpy.protocol.messages import MessageType
from bgpy.server import Server
from bgpy.sockets import ClientSocket
from bgpy.tls import Certificates


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path / "trapped")


@pytest.fixture
def server() -> Iterator[Served]:
    with surviving_server(token=TOKEN) as served:
        yield served


def talk(client: Client) -> None:
    """Have a large array there and back, a stream of one, and a state."""
    array = numpy.arange(3 << 20, dtype="u1")
    answer = client.execute({"echo": array}, await_response=True)
    assert (answer["echo"] == array).all()
    answer["echo"][0] = 1  # writable
    assert list(client.stream({"add": 1})) == [{"count": 1}]
    assert client.status()["requests"] == 3


def echo(client_socket: ClientSocket, state: Args, args: Args) -> Args:
    if "echo" in args:
        client_socket.respond({"echo": args["echo"]})
        return state
    return count(client_socket, state, args)


ECHO = tasks(echo, start_count)
needs_psk = pytest.mark.skipif(sys.version_info < (3, 13), reason="pre-shared keys came with Python 3.13")


def test_tls_with_a_certificate(certificates: Files) -> None:
    entrance = {"ssl_context": ssl.create_default_context(cafile=certificates.certificate)}
    with running_server(ECHO, token=TOKEN, ssl_context=certificates.server_context(), entrance=entrance) as server:
        talk(server.client())


def test_tls_with_certificates_of_both_sides(certificates: Files) -> None:
    both = Certificates(certificates.certificate, certificates.key, certificates.certificate)
    with running_server(ECHO, token=TOKEN, tls=both, entrance={"tls": both}) as server:
        talk(server.client())
        for tls in (
            Certificates(cafile=certificates.certificate),
            Certificates(certificates.other, certificates.other_key, certificates.certificate),
        ):
            with pytest.raises(AuthenticationError, match=r"TLS failed: [A-Z0-9_]+\. Check the certificates") as caught:
                server.client(tls=tls).execute({"add": 1})
            assert caught.value.executed is False
        assert server.client().status()["requests"] == 3


def test_frames_go_bare_under_tls_with_a_verified_server_only(certificates: Files) -> None:
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    verified = ssl.create_default_context(cafile=certificates.certificate)
    with (
        running_server(token=TOKEN, ssl_context=certificates.server_context(), entrance={"ssl_context": verified}) as server,
        Proxy(server.port) as proxy,
    ):
        for context, bare in ((verified, True), (unverified, False)):
            with dial(proxy.port, token=TOKEN, context=context) as connection:
                assert (connection.opening.send_key is None) == bare
        assert server.client(ssl_context=unverified, port=proxy.port).execute({"add": 1}, await_response=True) == {"count": 1}


def test_a_server_with_another_certificate_is_refused(certificates: Files) -> None:
    ours = ssl.create_default_context(cafile=certificates.certificate)
    with running_server(token=TOKEN, ssl_context=certificates.server_context(), entrance={"ssl_context": ours}) as server:
        with pytest.raises(AuthenticationError, match="TLS") as caught:
            server.client(ssl_context=ssl.create_default_context(cafile=certificates.other)).execute({"add": 1})
        assert caught.value.executed is False
        with pytest.raises(AuthenticationError):
            server.client(token=WRONG).execute({"add": 1})
        with pytest.raises(BgpyError):
            server.client(ssl_context=None).execute({"add": 1})
        assert server.client().status()["requests"] == 1


def test_a_client_with_tls_at_a_server_without_is_told(certificates: Files, server: Served) -> None:
    with pytest.raises(AuthenticationError, match="TLS"):
        server.client(tls=Certificates(cafile=certificates.certificate)).execute({"add": 1})


def test_a_client_without_tls_at_a_server_with_it_is_told(certificates: Files) -> None:
    entrance = {"ssl_context": ssl.create_default_context(cafile=certificates.certificate)}
    with (
        running_server(ssl_context=certificates.server_context(), entrance=entrance) as server,
        server.client(ssl_context=None) as client,
        pytest.raises(ConnectError, match="does it have TLS") as caught,
    ):
        client.execute({"add": 1})
    assert caught.value.executed is False


def test_a_connection_under_tls_that_is_cut_is_taken_up_again(certificates: Files) -> None:
    context = ssl.create_default_context(cafile=certificates.certificate)
    with (
        running_server(token=TOKEN, ssl_context=certificates.server_context(), entrance={"ssl_context": context}) as server,
        Proxy(server.port) as proxy,
    ):
        with server.client(port=proxy.port) as client:
            client.execute({}, await_response=True)
            whole = proxy.sent()
        plans = [Plan(to_server=offset) for offset in range(0, whole[0] + 1, 7)]
        plans += [Plan(to_client=offset) for offset in range(0, whole[1] + 1, 7)]
        for number, plan in enumerate(plans, 1):
            proxy.plan(plan)
            with server.client(port=proxy.port) as client:
                assert client.execute({"add": 1}, await_response=True) == {"count": number}, plan


@pytest.mark.process
def test_a_detached_server_takes_certificates_but_no_context(certificates: Files) -> None:
    with background_server(COUNTER, tls=Certificates(certificates.certificate, certificates.key)) as server:
        with Client("localhost", server.port, tls=Certificates(cafile=certificates.certificate), timeout=20) as client:
            assert client.execute({"add": 1}, await_response=True) == {"count": 1}
    with pytest.raises(TlsError, match="cannot travel"):
        Server(ssl_context=certificates.server_context()).run_background()


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="this Python has pre-shared keys")
def test_tls_by_token_needs_a_newer_python() -> None:
    for make in (lambda: Server(token=TOKEN, tls="token").run(), lambda: Client(token=TOKEN, tls="token")):
        with pytest.raises(TlsError, match=r"3\.13"):
            make()


@needs_psk
def test_tls_by_token() -> None:
    with running_server(ECHO, token=TOKEN, tls="token", entrance={"tls": "token"}) as server:
        talk(server.client())
        with pytest.raises(AuthenticationError, match="TLS"):
            server.client(token=WRONG).execute({"add": 1})
        with pytest.raises(BgpyError):
            server.client(tls=None).execute({"add": 1})
        with dial(server.port, token=TOKEN, context=server.client()._dialer.context, machine=bytes(32)) as connection:
            assert connection.opening.send_key is None
            assert connection.wire.tls.version() == "TLSv1.3"  # type: ignore[attr-defined]


@needs_psk
def test_a_server_that_shows_a_certificate_in_place_of_the_key_is_refused(certificates: Files, trap: Trap) -> None:
    """A TLS 1.3 client that asks for no certificate would take any."""
    context = certificates.server_context()

    def serve(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as tls:
            tls.sendall(trap_frame(MessageType.OK, trap))
            read_to_end(tls)

    with FalseServer(serve) as false, Client(port=false.port, token=TOKEN, tls="token", timeout=20) as client:
        with pytest.raises(AuthenticationError):
            client.execute({})
    assert not trap.path.exists()


@needs_psk
def test_a_client_that_ignores_the_key_is_refused(certificates: Files) -> None:
    context = ssl.create_default_context(cafile=certificates.certificate)
    with running_server(token=TOKEN, tls="token", entrance={"tls": "token"}) as server:
        with pytest.raises((AuthenticationError, ConnectError)):
            server.client(tls=None, ssl_context=context).execute({"add": 1})
        assert server.client().execute({}, await_response=True) == {"count": 0}


def test_tls_options_exclude_each_other(certificates: Files) -> None:
    with pytest.raises(TlsError, match="exclude"):
        Client(token=TOKEN, tls=Certificates(), ssl_context=certificates.server_context())
    with pytest.raises(TlsError, match="certificate"):
        Server(token=TOKEN, tls=Certificates()).run()
