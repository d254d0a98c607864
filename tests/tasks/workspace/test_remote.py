"""
How a Python program elsewhere asks: what its messages are.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from bgpy.protocol.messages import Data, dump, load
from bgpy.tasks.workspace.remote import Asker, deadline_in, seconds_left
from bgpy.tasks.workspace.values import Packed


class Text(str):
    """A text that cannot travel by name to a server which lacks this module."""

    __slots__ = ()


class Server:
    """What a client is to an `Asker`: keeps the message, and answers with nothing."""

    timeout = None

    def __init__(self) -> None:
        self.message: dict[str, Any] = {}

    def execute(self, message: dict[str, Any], await_response: bool, timeout: float | None) -> dict[str, Any]:
        self.message = message
        return {"request_result": True, "result": None}


@pytest.fixture
def server() -> Server:
    return Server()


def ask(server: Server, **fields: Any) -> None:
    Asker(server).ask("predict", "lab", timeout=1.5, **fields)  # type: ignore[arg-type]


def test_a_message_of_closed_and_plain_values_need_not_be_looked_through_and_arrives_as_a_dict(server: Server) -> None:
    closed = Packed.of({"x": [1, 2]})
    ask(server, feed_dict=closed, fetches=None)
    assert type(server.message) is Data
    payload = dump(server.message)
    arrived = load(payload.pickle, payload.buffers)
    assert type(arrived) is dict
    assert arrived.pop("feed_dict").open() == {"x": [1, 2]}
    assert arrived == {"command": "predict", "name": "lab", "fetches": None, "timeout": 1.5}


@pytest.mark.parametrize("fetches", [["y"], Text("y"), Text], ids=["a list", "a text of a class of its own", "a class"])
def test_a_message_with_anything_else_is_looked_through(server: Server, fetches: Any) -> None:
    ask(server, feed_dict=Packed.of(1), fetches=fetches)
    assert type(server.message) is dict


def test_a_message_of_plain_values_alone_takes_the_shorter_way_of_a_dict(server: Server) -> None:
    ask(server, fetches="y")
    assert type(server.message) is dict


@pytest.mark.parametrize("timeout", [Decimal(10), Fraction(10), 10])
def test_a_wait_takes_a_number_of_any_class(timeout: Any) -> None:
    left = seconds_left(deadline_in(timeout))
    assert 5 < left <= 10
    assert type(left) is float


def test_a_wait_for_no_number_is_refused_in_words() -> None:
    with pytest.raises(TypeError, match="number of seconds"):
        deadline_in(timedelta(seconds=5))  # type: ignore[arg-type]
