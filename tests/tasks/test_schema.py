"""The shape of a request is judged alike by the quick way and by the one that explains."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpy.errors import RefusedError
from bgpy.tasks.schema import Command, check, checker, unknown_command
from bgpy.tasks.workspace.commands import COMMANDS

NUMBERS: list[Any] = [True, False, 0, 1, 2, -1, 2.0, 0.5, float("nan")]
VALUES: list[Any] = [*NUMBERS, None, "process", "json", "x", [], ["a"], [1], ("a",), {}, b""]


def outcome(judge: Any, message: dict[str, Any]) -> Any:
    try:
        return repr(sorted(judge(message).items()))  # as text, in which NaN is like NaN
    except RefusedError as refused:
        return str(refused), refused.field


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
@given(data=st.data())
def test_a_quick_check_is_a_check(command: Command, data: st.DataObject) -> None:
    names = st.sampled_from([*(field.name for field in command.fields), "command", "unknown"])
    message = data.draw(st.dictionaries(names, st.sampled_from(VALUES), max_size=4))
    quick, whole = outcome(checker(command), message), outcome(lambda message: check(command, message), message)
    assert quick == whole


def test_a_message_without_a_command_that_there_is_says_which_there_are() -> None:
    missing, wrong = unknown_command({}, ("one", "two")), unknown_command({"command": 7}, ("one",))
    assert (missing.reason, missing.field) == ("The message has no field 'command'; it is one of one, two", "command")
    assert (wrong.reason, wrong.field) == ("There is no command 7; there are one", "command")
