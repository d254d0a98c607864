"""TLS by the token and by certificates."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import numpy
import pytest
from support.certificates import Files
from support.loops import in_loop
from support.servers import Served, echo, running_server, tasks

import bgpy
from bgpy.aio import AsyncClient
from bgpy.aio import connection as connection_module
from bgpy.errors import AuthenticationError, ConnectError, RemoteProtocolError
from bgpy.tls import check_token_tls

NEEDS_PSK = pytest.mark.skipif(not getattr(ssl, "HAS_PSK", False), reason="pre-shared keys came with Python 3.13")


async def exercise(server: Served, **options: Any) -> None:
    """Send small and large requests over TLS, at once and one after the other."""
    array = numpy.arange(1 << 20, dtype="f8")
    async with AsyncClient(port=server.port, timeout=20, **options) as client:
        response = await client.execute({"a": array}, await_response=True)
        assert (response["a"] == array).all()
        await asyncio.gather(*(client.execute({"a": array[:number]}, await_response=True) for number in range(20)))
        (first, *_) = client._connections
        assert first._transport.get_extra_info("ssl_object").version() == "TLSv1.3"
        assert first.opening.send_key is None
        first.close()
        assert (await client.execute({"a": array[:3]}, await_response=True))["writable"]


@NEEDS_PSK
def test_tls_by_token(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Any] = []
    monkeypatch.setattr(connection_module, "check_token_tls", lambda *args: checked.append(check_token_tls(*args)))
    with running_server(tasks(echo), tls="token", entrance={"tls": "token"}) as server:
        asyncio.run(exercise(server, tls="token"))
    assert checked


@NEEDS_PSK
@in_loop
async def test_tls_by_token_needs_the_token_and_tls_on_both_sides() -> None:
    with running_server(tls="token", entrance={"tls": "token"}) as server:
        async with AsyncClient(port=server.port, tls="token", token="x" * 43) as client:
            with pytest.raises(AuthenticationError, match="TLS failed"):
                await client.execute({})
        async with AsyncClient(port=server.port) as client:
            with pytest.raises((RemoteProtocolError, ConnectError)):
                await client.execute({})
    with running_server() as bare:
        async with AsyncClient(port=bare.port, tls="token") as client:
            with pytest.raises((AuthenticationError, ConnectError)):
                await client.execute({})


def test_tls_by_certificate(certificates: Files) -> None:
    entrance = {"tls": bgpy.Certificates(cafile=certificates.certificate)}
    ours = bgpy.Certificates(certificates.certificate, certificates.key)
    with running_server(tasks(echo), tls=ours, entrance=entrance) as server:
        asyncio.run(exercise(server, **entrance))
        with pytest.raises(AuthenticationError, match=r"TLS failed: CERTIFICATE_VERIFY_FAILED\. Check the certificates"):
            asyncio.run(exercise(server, tls=bgpy.Certificates()))
