"""What is written in one turn of the event loop goes out in one piece."""

from __future__ import annotations

import asyncio
from typing import Any

from bgpy.gateway.reading import JoiningTransport


class Transport:
    """Keep what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def run(work: Any) -> Transport:
    """Do something with a joining transport in one turn, and return the one below it after the next turn."""
    below = Transport()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        work(JoiningTransport(below, loop))  # type: ignore[arg-type]
        turn = loop.create_future()
        loop.call_soon(turn.set_result, None)
        await turn

    asyncio.run(main())
    return below


def test_small_pieces_of_one_turn_are_sent_as_one() -> None:
    assert run(lambda transport: [transport.write(piece) for piece in (b"head ", b"body ", b"end")]).written == [b"head body end"]


def test_a_large_piece_is_not_copied_and_keeps_its_place() -> None:
    large = b"x" * (1 << 20)
    written = run(lambda transport: [transport.write(piece) for piece in (b"head", large, b"end")]).written
    assert written == [b"head", large, b"end"]
    assert written[1] is large


def test_closing_comes_behind_what_was_written() -> None:
    below = run(lambda transport: (transport.write(b"last"), transport.close()))
    assert (below.written, below.closed) == ([b"last"], True)


def test_all_else_is_left_to_the_transport_below() -> None:
    answers: list[bool] = []
    run(lambda transport: (answers.append(transport.is_closing()), transport.close(), answers.append(transport.is_closing())))
    assert answers == [False, True]
