"""The shape of a request is judged alike by the quick way and by the one that explains."""

from __future__ import annotations

import enum
import pickle
import pickletools
from collections import OrderedDict, deque
from fractions import Fraction
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpy.errors import RefusedError
from bgpy.tasks.schema import Command, Field, check, checker, make_plain, unknown_command
from bgpy.tasks.workspace.commands import COMMANDS


class Text(str):
    """As NumPy's strings are."""


class Choice(str, enum.Enum):
    JSON = "json"


class Count(enum.IntEnum):
    TWO = 2


class Share(float):
    """As NumPy's float64 is."""


NUMBERS: list[Any] = [True, False, 0, 1, 2, -1, 2.0, 0.5, float("nan")]
VALUES: list[Any] = [*NUMBERS, None, "process", "json", "x", [], ["a"], [1], ("a",), {}, b""]
OWN: list[Any] = [Text("x"), Choice.JSON, Count.TWO, Share(0.5), Fraction(1, 2), [Text("a")], (Count.TWO,)]
OWN += [numpy.str_("x"), numpy.int64(2), numpy.float32(0.5), [numpy.int8(1)]]


def is_plain(value: Any) -> bool:
    """Tell whether data are of the basic types themselves: the pickle of such names no class."""
    return not any(operation.name in ("GLOBAL", "STACK_GLOBAL") for operation, _, _ in pickletools.genops(pickle.dumps(value)))


def outcome(judge: Any, message: dict[str, Any]) -> Any:
    try:
        return repr(sorted(judge(message).items()))  # as text, in which NaN is like NaN
    except RefusedError as refused:
        return str(refused), refused.field


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
@given(data=st.data())
def test_a_quick_check_is_a_check(command: Command, data: st.DataObject) -> None:
    names = st.sampled_from([*(field.name for field in command.fields), "command", "unknown"])
    message = data.draw(st.dictionaries(names, st.sampled_from([*VALUES, *OWN]), max_size=4))
    quick, whole = outcome(checker(command), message), outcome(lambda message: check(command, message), message)
    assert quick == whole


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.fields], ids=lambda command: command.name)
@given(data=st.data())
def test_what_was_checked_is_of_no_class_of_the_users(command: Command, data: st.DataObject) -> None:
    """A worker, which reads plain data only, ended when it was sent a variable's name that NumPy had made."""
    field = data.draw(st.sampled_from([field for field in command.fields if field.types]))
    value = data.draw(st.sampled_from(OWN))
    try:
        fields = checker(command._replace(fields=(field,)))({field.name: value})
    except RefusedError:
        return
    assert is_plain(fields[field.name])
    assert fields[field.name] == value


def test_json_data_are_made_plain_and_what_is_none_is_refused() -> None:
    data = [None, True, 1, 0.5, "x", (Text("x"), {Text("a"): [Count.TWO]}), OrderedDict(b=Share(0.5)), numpy.uint64(2**63)]
    made = make_plain(data)
    assert made == data
    assert is_plain(made)
    for wrong in ({1}, b"", [object()], {1: 2}, deque([1])):
        with pytest.raises(TypeError):
            make_plain(wrong)
    deep: list[Any] = []
    deep.append(deep)
    with pytest.raises(TypeError, match="levels"):
        make_plain(deep)


def test_a_field_of_a_wrong_type_names_that_type() -> None:
    command = Command("count", "", (Field("loud", ("boolean",), False, ""), Field("job", ("integer",), 0, "")), "")
    for field, value, reason in (
        ("loud", numpy.True_, "The field 'loud' of count is boolean, not numpy.bool"),
        ("job", numpy.float32(0.5), "The field 'job' of count is integer, not numpy.float32"),
        ("job", "5", "The field 'job' of count is integer, not str"),
        ("job", None, "The field 'job' of count is integer, not null"),
    ):
        with pytest.raises(RefusedError, match=reason):
            check(command, {field: value})


def test_a_message_without_a_command_that_there_is_says_which_there_are() -> None:
    missing, wrong = unknown_command({}, ("one", "two")), unknown_command({"command": 7}, ("one",))
    assert (missing.reason, missing.field) == ("The message has no field 'command'; it is one of one, two", "command")
    assert (wrong.reason, wrong.field) == ("There is no command 7; there are one", "command")
