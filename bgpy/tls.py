"""
TLS contexts from a token alone, and the choice between those and the user's own.

On Python 3.13 and newer ``tls="token"`` makes TLS 1.3 with a pre-shared key and no certificate: the key is the "tls-psk" subkey
of the token, never the token. The reasons for each setting: docs/security.rst, "TLS".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from bgpy.errors import AuthenticationError, TlsError
from bgpy.token import derive_key

if TYPE_CHECKING:
    import ssl

_IDENTITY = "bgpy"


class Certificates(NamedTuple):
    """
    Files to make a context from: unlike a context they can travel to a detached server.

    Attributes
    ----------
    certfile, keyfile
        What this side shows: needed for a server.
    cafile
        What the other side must show, or be signed by. A server that is given one asks its clients for certificates.
    """

    certfile: str | None = None
    keyfile: str | None = None
    cafile: str | None = None


Tls = str | Certificates | None


def choose_context(tls: Tls, ssl_context: ssl.SSLContext | None, token: str, *, server: bool) -> ssl.SSLContext | None:
    """
    Return the context that a server or client is to use, None for no TLS.

    Raises
    ------
    TlsError
        `tls` is not known, both were given, the token is empty, this Python has no pre-shared keys, or a file cannot be read.
    """
    if ssl_context is not None and not hasattr(ssl_context, "wrap_socket"):
        raise TlsError(
            f"An ssl_context is an ssl.SSLContext, not {ssl_context!r:.100}", "Make one with ssl.create_default_context()"
        )
    if tls is None:
        return ssl_context
    if ssl_context is not None:
        raise TlsError("tls and ssl_context exclude each other", "Give one of them")
    if isinstance(tls, Certificates):
        return _certificate_context(tls, server)
    if tls != "token":
        raise TlsError(f"tls={tls!r} is not known", 'Use tls="token", or ssl_context=... for certificates')
    if not token:
        raise TlsError('tls="token" needs a token', "Do not switch the token off")
    import ssl

    if not getattr(ssl, "HAS_PSK", False):
        raise TlsError('tls="token" needs Python 3.13 or newer', "Use ssl_context=... with a certificate, or a newer Python")
    return _server_context(derive_key(token, "tls-psk")) if server else _client_context(derive_key(token, "tls-psk"))


def _certificate_context(files: Certificates, server: bool) -> ssl.SSLContext:
    import ssl

    try:
        if server:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files.cafile)
            if files.cafile is not None:
                context.verify_mode = ssl.CERT_REQUIRED
        else:
            context = ssl.create_default_context(cafile=files.cafile)
        if files.certfile is not None:
            context.load_cert_chain(files.certfile, files.keyfile)
        elif server:
            raise TlsError("A server needs a certificate", "Give certfile and keyfile")
    except OSError as error:
        raise TlsError(f"The certificates cannot be used: {error}", "Check certfile, keyfile and cafile") from error
    return context


def check_token_tls(tls_object: ssl.SSLObject | ssl.SSLSocket, address: str) -> None:
    """
    Refuse a connection of ``tls="token"`` that was not made with the pre-shared key. Called after the handshake.

    A TLS 1.3 client that does not ask for certificates accepts a server that ignores the key and shows any certificate;
    our contexts ask, and this looks again.
    """
    if not tls_object.session_reused or tls_object.getpeercert(True) is not None:
        raise AuthenticationError(address, "TLS was not made with the token")


def _server_context(key: bytes) -> ssl.SSLContext:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # A ticket would be a second, longer-lived secret, and it could resume a session made with an older token.
    context.num_tickets = 0
    context.set_psk_server_callback(lambda identity: key if identity == _IDENTITY else b"", None)  # type: ignore[attr-defined,unused-ignore]
    return context


def _client_context(key: bytes) -> ssl.SSLContext:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    # verify_mode stays CERT_REQUIRED with no CA loaded: whoever shows a certificate in place of the key is refused.
    context.set_psk_client_callback(lambda hint: (_IDENTITY, key))  # type: ignore[attr-defined,unused-ignore]
    return context
