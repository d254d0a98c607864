"""
What a request may be: its size, how long its body may take, and what its JSON may hold.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, NoReturn

from starlette.types import Receive

from bgpy.errors import RefusedError
from bgpy.gateway.cutting import Cut

#: Levels of arrays and objects within one another.
MAX_DEPTH = 100
#: Digits of an integer: with one more it is beyond what a float can hold, and so beyond many readers of JSON.
MAX_DIGITS = 308

# Each of these looks at a character once, whatever the text is: what it matches or not, it does not begin again in between.
_STRING = re.compile(r'"[^"]*"?')
_LONG_NUMBER = re.compile(rf"(?<!\d)\d{{{MAX_DIGITS + 1}}}")
_LARGE_EXPONENT = re.compile(r"[eE]\+?\d{3}")
_NOT_BRACKETS = re.compile(r"[^][{}]+")
#: For zlib, by the name of the Content-Encoding.
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}


class Limits(NamedTuple):
    """
    What the gateway takes from its clients.

    Attributes
    ----------
    head_timeout
        Seconds for the head of a request, from the connection or the first byte on; of a gateway with a server of its own.
    max_body_size
        Bytes of a body, counted as they come, and again as they are decompressed.
    body_timeout
        Seconds for a body to be there whole.
    max_message_size
        Bytes of a WebSocket message.
    first_message_timeout
        Seconds for the first message of a WebSocket.
    request_timeout
        Seconds for the server's answer, on top of those that the request itself says.
    max_requests
        Requests that may be with the server at once; the next ones wait.
    max_waits
        The same of requests that say how long the server may wait, which have connections of their own.
    max_watchers
        Watchers at once; the next one is told that there is no room.
    login_timeout
        Seconds for the token as the first message of a WebSocket.
    max_upload_size
        Bytes of a message of who has logged in, where files may be in it.
    """

    head_timeout: float = 10.0
    max_body_size: int = 64 << 20
    body_timeout: float = 60.0
    max_message_size: int = 64 << 10
    first_message_timeout: float = 10.0
    request_timeout: float = 300.0
    max_requests: int = 256
    max_waits: int = 256
    max_watchers: int = 256
    login_timeout: float = 5.0
    max_upload_size: int = 16 << 20


class BodyTooLarge(Exception):
    """Say that a body is above the limit."""


class BodyTooSlow(Exception):
    """Say that a body was not there in time."""


class ClientGone(Exception):
    """Say that nobody waits for an answer any more."""


async def read_body(receive: Receive, announced: int | None, limits: Limits) -> bytes:
    """
    Return the body of a request.

    Parameters
    ----------
    announced
        Its length as the request says it, None where it says none (a chunked body).

    Raises
    ------
    BodyTooLarge, BodyTooSlow, ClientGone
        It is above the limit, which is known as soon as it is announced or has come; it took too long; it broke off.
    """
    if announced is not None and announced > limits.max_body_size:
        raise BodyTooLarge
    if announced == 0:
        return b""
    with Cut() as cut:
        timer = asyncio.get_running_loop().call_later(limits.body_timeout, cut.make)
        try:
            return await _read(receive, limits.max_body_size)
        finally:
            timer.cancel()
    raise BodyTooSlow


async def _read(receive: Receive, limit: int) -> bytes:
    pieces, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit:
            raise BodyTooLarge
        pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces)


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """
    Return a body without its Content-Encoding: gzip, or deflate, which means the format of zlib.

    Raises
    ------
    BodyTooLarge
        It would be above `limit`; no more than that is ever held.
    RefusedError
        It is not what the encoding says, not whole, or not all.
    KeyError
        The encoding is another one.
    """
    inflater = zlib.decompressobj(_WINDOWS[encoding])
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise RefusedError(f"The body is no {encoding}: {error}") from None
    if len(plain) > limit:
        raise BodyTooLarge
    if not inflater.eof or inflater.unused_data:
        raise RefusedError(f"The body's {encoding} is not whole, or something follows it")
    return plain


def parse_json(data: bytes | str, what: str = "body") -> Any:
    """
    Return what a strict JSON text says.

    Parameters
    ----------
    what
        The word for the text in an error.

    Raises
    ------
    RefusedError
        It is none: other encodings than UTF-8, NaN and infinities, also as 1e999; or it is nested too deeply or has integers of
        too many digits.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedError(f"The {what} is not UTF-8 (byte {error.start})") from None
    parse_float = _check_text(text)
    try:
        return json.loads(text, parse_constant=partial(_refuse_constant, what), parse_float=parse_float)
    except RecursionError:
        raise RefusedError(f"The JSON is nested more than {MAX_DEPTH} levels deep") from None
    except json.JSONDecodeError as error:
        raise RefusedError(f"The {what} is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None


def parse_object(data: bytes | str, what: str = "body") -> dict[str, Any]:
    """Return the fields of a request, none for an empty body; raises RefusedError as `parse_json`, and for what is no object."""
    if not data or data.isspace():
        return {}
    value = parse_json(data, what)
    if not isinstance(value, dict):
        raise RefusedError(f"The {what} is a JSON object, not {_word(value)}")
    return value


def _check_text(text: str) -> Callable[[str], float] | None:
    """Refuse depth and digits before anything is built; return how floats are to be read, None for the usual way."""
    # Where a text is malformed this loses its way, but only behind the place at which the parser stops.
    bare = _STRING.sub("", text.replace("\\\\", "").replace('\\"', ""))
    if bare.count("[") + bare.count("{") > MAX_DEPTH:
        brackets = _NOT_BRACKETS.sub("", bare)
        if max(itertools.accumulate(map(_STEPS.__getitem__, brackets))) > MAX_DEPTH:
            raise RefusedError(f"The JSON is nested more than {MAX_DEPTH} levels deep")
    if _LONG_NUMBER.search(bare):
        raise RefusedError(f"The JSON has a number of more than {MAX_DIGITS} digits")
    return _finite if _LARGE_EXPONENT.search(bare) else None


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise RefusedError(f"The number {text:.50} is beyond what a float can hold")
    return value


def _refuse_constant(what: str, word: str) -> NoReturn:
    raise RefusedError(f"The {what} is not JSON: {word} is no number there")


def _word(value: object) -> str:
    if isinstance(value, str):
        return "a text"
    if isinstance(value, list):
        return "an array"
    return "null" if value is None else "true or false" if isinstance(value, bool) else "a number"
