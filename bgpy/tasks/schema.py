"""
What a task set's commands look like, as data: dispatch, command line, API guide and OpenAPI are made from it.

Nothing here runs a command. `check` is the one place where the shape of a request is judged.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from bgpy.errors import RefusedError

#: A field without a default must be given.
REQUIRED: Any = object()

#: The words of JSON Schema, and the Python types that they stand for. A bool is no number here, as in JSON.
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int, numbers.Integral),
    "number": (int, float, numbers.Real),
    "boolean": (bool,),
    "array": (list, tuple),
    "object": (dict,),
    "null": (type(None),),
}
_NUMBERS = frozenset({int, float})
#: What is plain JSON data by its type alone.
_PLAIN = frozenset({str, int, float, bool, type(None)})
#: So deep may the lists and objects of a value be.
_MAX_DEPTH = 100
_NONE: frozenset[type] = frozenset()


class Field(NamedTuple):
    """
    One field of a command.

    Attributes
    ----------
    types
        Words of JSON Schema, or () for any value.
    default
        What stands for a missing field, `REQUIRED` where there is none.
    choices
        The only values that are taken; () for all.
    minimum
        The least number that is taken.
    items
        The type of each item of an array, "" for any.
    guide
        How the seed's own API guide describes the field, "" where that has no such field.
    fields
        The fields of an object, or of each object in an array; () where anything may be in it.
    """

    name: str
    types: tuple[str, ...]
    default: Any
    help: str
    choices: tuple[Any, ...] = ()
    minimum: float | None = None
    items: str = ""
    guide: str = ""
    fields: tuple[Field, ...] = ()


class Command(NamedTuple):
    """
    One command.

    Attributes
    ----------
    help
        One line.
    result
        What the answer's ``result`` is, one line.
    stream
        Whether it answers with many responses.
    guide
        How the seed's own API guide describes the command, "" where that has no such command.
    guide_result
        How that guide describes the ``result``, text or a dict; None for `result`.
    """

    name: str
    help: str
    fields: tuple[Field, ...]
    result: str
    stream: bool = False
    guide: str = ""
    guide_result: Any = None


def check(command: Command, message: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the fields of a request to a command, defaults filled in, "command" left out.

    Texts and numbers are of no class of the user's in what is returned: a worker would refuse to read these.

    Raises
    ------
    RefusedError
        A field is missing, unknown, of the wrong type, or not among the values that are taken; names it.
    """
    known = {field.name for field in command.fields}
    for name in message:
        if name not in known and name != "command":
            raise RefusedError(f"{command.name} has no field {name!r}; it takes {', '.join(sorted(known)) or 'none'}", str(name))
    return {
        # The usual field is not there: it takes no call to find that its default is fine.
        field.name: field.default
        if field.name not in message and field.default is not REQUIRED
        else _check_field(command.name, field, message)
        for field in command.fields
    }


def checker(command: Command) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return what does `check` for one command, and quickly for a request that has nothing unusual."""
    defaults = {field.name: field.default for field in command.fields if field.default is not REQUIRED}
    rules = {field.name: (_plain_types(field), field.choices, field.minimum) for field in command.fields}
    # The types by which alone a value is taken.
    enough = {field.name: _plain_types(field) or _NONE for field in command.fields if not field.choices and field.minimum is None}
    enough["command"] = frozenset({str})
    count = len(rules)

    def fits(name: str, value: Any) -> bool:
        types, choices, minimum = rules.get(name, (_NONE, (), None))
        if types is None:
            return True
        if type(value) not in types or (choices and value not in choices):
            return False
        return minimum is None or type(value) not in _NUMBERS or value >= minimum

    def check_quickly(message: Mapping[str, Any]) -> dict[str, Any]:
        found = {**defaults, **message}
        found.pop("command", None)
        if len(found) != count:
            return check(command, message)
        for name, value in message.items():
            if type(value) not in enough.get(name, _NONE) and not fits(name, value):
                return check(command, message)
        return found

    return check_quickly


def unknown_command(message: Mapping[str, Any], known: Iterable[str]) -> RefusedError:
    """Return what says that a message names none of the commands that there are."""
    names = ", ".join(known)
    if "command" not in message:
        return RefusedError(f"The message has no field 'command'; it is one of {names}", "command")
    return RefusedError(f"There is no command {message['command']!r:.100}; there are {names}", "command")


def _plain_types(field: Field) -> frozenset[type] | None:
    """Return the types whose own values are taken by their type alone, None for all; what is not here is looked at closely."""
    if not field.types:
        return None
    if field.fields:
        return frozenset()
    if field.items:
        return frozenset(kind for word in field.types if word != "array" for kind in _TYPES[word])
    return frozenset(kind for word in field.types for kind in _TYPES[word])


def _check_field(command: str, field: Field, message: Mapping[str, Any]) -> Any:
    value = message.get(field.name, field.default)
    if value is REQUIRED:
        raise RefusedError(f"{command} needs the field {field.name!r}: {field.help.rstrip('.')}", field.name)
    if field.name not in message:
        return value
    if field.types and not any(is_type(value, word) for word in field.types):
        wanted = " or ".join(field.types)
        raise RefusedError(f"The field {field.name!r} of {command} is {wanted}, not {_name(type(value))}", field.name)
    if field.items and isinstance(value, (list, tuple)) and not all(is_type(item, field.items) for item in value):
        raise RefusedError(f"Each item of the field {field.name!r} of {command} is {field.items}", field.name)
    if field.choices and value not in field.choices:
        choices = ", ".join(repr(choice) for choice in field.choices)
        raise RefusedError(f"The field {field.name!r} of {command} is one of {choices}, not {value!r:.50}", field.name)
    if field.minimum is not None and is_type(value, "number") and not value >= field.minimum:  # so that NaN is refused too
        raise RefusedError(f"The field {field.name!r} of {command} is {field.minimum:g} or more, not {value!r:.50}", field.name)
    if field.fields:
        return _check_inside(field, value)
    if not field.types:
        return value
    try:
        return make_plain(value)
    except TypeError as error:
        raise RefusedError(f"The field {field.name!r} of {command} is JSON data: {error}", field.name) from None


def _name(kind: type) -> str:
    """Return the name of a type as errors show it: JSON's word for None, and with its module, for NumPy has a bool too."""
    if kind is type(None):
        return "null"
    return kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"


def _check_inside(field: Field, value: Any) -> Any:
    """Return an object, or the objects of an array, with what stands for missing fields; raises as `check`."""
    inside = Command(field.name, "", field.fields, "")
    if isinstance(value, dict):
        return check(inside, value)
    return [check(inside, item) for item in value] if isinstance(value, (list, tuple)) else value


def is_type(value: object, word: str) -> bool:
    """Tell whether a value is what a word of JSON Schema stands for; 2.0 is an integer, as there."""
    if isinstance(value, bool):
        return word == "boolean"
    if word == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[word])


def make_plain(value: Any, depth: int = 0) -> Any:
    """
    Return JSON data in the basic types themselves: what a worker is told knows no class of the user's, such as those of NumPy.

    Raises TypeError for what is no JSON data, or too deep.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, numbers.Real):  # those of NumPy are, and NumPy need not be here
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    if depth > _MAX_DEPTH:
        raise TypeError(f"it is more than {_MAX_DEPTH} levels deep")
    if isinstance(value, (list, tuple)):
        items = [item if type(item) in _PLAIN else make_plain(item, depth + 1) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {str.__str__(key): make_plain(item, depth + 1) for key, item in value.items()}
    raise TypeError(f"a {_name(type(value))} is none" if not isinstance(value, dict) else "a key of it is no text")
