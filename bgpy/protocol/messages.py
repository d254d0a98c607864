"""
Pickle one message, and unpickle it on a side that may lack the code that it needs.

The rules, in the order in which they are asked for every function and class:

1. What the other side can import (standard library, installed packages, bgpy) travels by name.
2. What lives in a module of the user (neither of these, with source) travels by name, and the source of that module and of
   the user's modules that it imports travels in front of the message (`bgpy.protocol.modules`, `shipped`).
3. All else (``__main__``, lambdas, closures, classes made in functions) travels by value, as bytecode, through cloudpickle
   (`bgpy.protocol.byvalue`). Then the whole message goes through one pickler, so that functions sent together share
   their globals.
4. Rule 3 is no fall-back for a pickle that failed: plain pickle takes objects of ``__main__`` by name, and fails over there.
5. Contiguous buffers of 32 KiB and more travel out of band, at most 1,000 of them, without a copy, and come out writable.
6. Everything that goes wrong is a `SerializationError`, also what a user's ``__reduce__`` raises, and `SystemExit`.
"""

from __future__ import annotations

import enum
import io
import pickle as _pickle
import sys
from collections.abc import Sequence
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple

from bgpy.errors import SerializationError
from bgpy.protocol.frames import FLAG_AWAIT, brief
from bgpy.protocol.modules import NAMED_KINDS, NeededModules
from bgpy.protocol.shipped import join, load_with_modules

#: Of a dict of these alone the plain pickle is the whole story; most requests are such dicts.
_PLAIN = frozenset({str, int, float, bool, type(None), bytes})
#: More items than so many are not looked at one by one: the C pickler is faster at that.
_FEW = 64
#: The kinds of NumPy's dtypes that hold no objects.
_NUMBERS = frozenset("biufcSUmM")
#: Below this a buffer is cheaper inside the pickle than as one more piece to send.
_SMALL_BUFFER = 32 * 1024
_PROTOCOL = 5
#: Makes a named tuple without the detour over its own constructor in Python, once for every message.
_new_tuple = tuple.__new__
#: What every pickle of protocol 2 and newer starts with; a message with modules starts with something else.
_PICKLE_START = 0x80


class MessageType(enum.IntEnum):
    """Name the kinds of messages; below 16 a client sends them, from 16 on a server."""

    INIT = 1
    EXEC = 2
    EXIT = 3
    STATUS = 4
    OK = 16
    ERROR = 17
    END = 18


# The same as plain numbers, for every request's path: to look a member up in its class takes a tenth of a microsecond.
EXEC = MessageType.EXEC.value
STATUS = MessageType.STATUS.value
OK = MessageType.OK.value
ERROR = MessageType.ERROR.value
END = MessageType.END.value

#: How the headers of the usual request and of the usual answer begin: EXEC that awaits its only answer, and that.
REQUEST = brief(EXEC, FLAG_AWAIT)
RESPONSE = brief(OK, 0)


class Payload(NamedTuple):
    """
    Hold one pickled message.

    Attributes
    ----------
    pickle
        The pickle, with the user's modules in front where it needs some.
    buffers
        What travels out of band: contiguous views of bytes into the objects themselves, not copies.
    by_value
        Whether the pickle holds bytecode, so that both ends need the same minor version of Python.
    """

    pickle: bytes | memoryview
    buffers: list[memoryview]
    by_value: bool


#: A payload as a bare tuple: half the price, where every request passes.
PayloadFields = tuple[bytes | memoryview, list[memoryview], bool]


class Data(dict[str, Any]):
    """A message that its maker knows for what `is_data` would find it to be; it arrives as a dict."""


class ByValue(Exception):
    """Tell `dump` from inside the light pickler that something has to travel by value."""


class _Buffers(list[memoryview]):
    """Collect the buffers that leave the pickle. Apart from the pickler: one that held its own method would be a cycle."""

    __slots__ = ("limit",)
    limit: int

    def keep(self, buffer: _pickle.PickleBuffer) -> bool:
        """Return True for a buffer that stays in the pickle."""
        view = buffer.raw()
        if view.nbytes < _SMALL_BUFFER or len(self) >= self.limit:
            return True
        self.append(view)
        return False


class _Pickler(_pickle.Pickler):
    """Pickle what goes by name; raise `ByValue` at the first thing that does not."""

    needed: NeededModules

    def reducer_override(self, obj: Any) -> Any:
        """Decide about functions, classes and the like. The C pickler asks for every object that is not of a basic type."""
        kind = type(obj)
        if kind is FunctionType or issubclass(kind, type) or id(kind) in NAMED_KINDS:
            if not self.needed.by_name(obj):
                raise ByValue
        else:
            self.needed.note_kind(kind)
        return NotImplemented


def dump_plain(message: dict[Any, Any]) -> bytes | None:
    """
    Pickle a dict of a few plain values, which most messages are, in the fewest steps. Does not block; safe from several threads.

    Returns None for all else: `dump` takes it, or says what is wrong.
    """
    if type(message) is not dict:
        return None
    try:
        for key, value in message.items():
            if type(key) not in _PLAIN or type(value) not in _PLAIN:
                return None
        return _pickle.dumps(message, _PROTOCOL)
    except (RuntimeError, MemoryError):  # changed by another thread meanwhile, or a very long text
        return None


def dump(obj: object, *, max_buffers: int = 1000) -> Payload:
    """
    Pickle a message. Does not block; safe from several threads.

    The buffers of the result are views into `obj`: what changes there before they are sent is what arrives.

    Parameters
    ----------
    obj
        The message, normally a dict.
    max_buffers
        How many buffers may leave the pickle; the rest is copied into it.

    Raises
    ------
    SerializationError
        Something cannot be pickled: names the key of the dict that holds it.
    KeyboardInterrupt
        Came while the objects were pickled.
    """
    try:
        known = type(obj) is Data
        if known or is_data(obj):
            obj = dict(obj) if known else obj  # type: ignore[call-overload]
            buffers = _Buffers()
            buffers.limit = max_buffers
            return _new_tuple(Payload, (_pickle.dumps(obj, _PROTOCOL, buffer_callback=buffers.keep), buffers, False))
        payload, needed = _dump(obj, max_buffers)
        return payload._replace(pickle=join(needed.collect(), payload.pickle)) if needed.users else payload
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # a user's __reduce__ can raise anything, SystemExit too
        raise _pickling_error(exc, obj) from exc


def is_data(obj: object, depth: int = 3) -> bool:
    """
    Tell at little cost whether an object is surely made of what goes by name: plain values, a few of them, and arrays of numbers.

    The C pickler then need not ask about each object. A class says the same of its instances by an attribute ``__bgpy_data__``.
    """
    kind = type(obj)
    if kind is dict:
        if not depth or len(obj) > _FEW:  # type: ignore[arg-type]
            return False
        for key, item in obj.items():  # type: ignore[attr-defined]
            if type(key) not in _PLAIN or (type(item) not in _PLAIN and not is_data(item, depth - 1)):
                return False
        return True
    if kind is list or kind is tuple:
        if not depth or len(obj) > _FEW:  # type: ignore[arg-type]
            return False
        for item in obj:  # type: ignore[attr-defined]
            if type(item) not in _PLAIN and not is_data(item, depth - 1):
                return False
        return True
    if kind in _PLAIN or "__bgpy_data__" in kind.__dict__:
        return True
    return kind.__name__ == "ndarray" and kind.__module__ == "numpy" and obj.dtype.kind in _NUMBERS  # type: ignore[attr-defined]


def load(pickle: bytes | bytearray | memoryview, buffers: Sequence[Any] = ()) -> object:
    """
    Unpickle a message. Blocks as long as the imports and ``__setstate__`` methods in it do; safe from several threads.

    Runs whatever code the message asks for: only for bytes of a side that has proved the token.

    Parameters
    ----------
    pickle, buffers
        As in the `Payload` of the other side. Arrays come out writable where the memory of `buffers` is, and share it.

    Raises
    ------
    SerializationError
        The message cannot be unpickled here; `module` names the module that is missing, or lacks something.
    KeyboardInterrupt
        Came while the objects were unpickled.
    """
    try:
        if pickle[0] == _PICKLE_START:
            return _pickle.loads(pickle, buffers=buffers) if buffers else _pickle.loads(pickle)
        return load_with_modules(pickle, partial(_pickle.loads, buffers=buffers))
    except (KeyboardInterrupt, SerializationError):
        raise
    except BaseException as exc:  # a user's __setstate__ can raise anything, SystemExit too
        raise SerializationError(f"Cannot unpickle the message: {_describe(exc)}", None, _missing_module(exc)) from exc


def key_of_module(obj: dict[Any, Any], module: str) -> str | None:
    """
    Find the key of a message whose value needs a module, itself or in the user's modules that travel with it.

    Parameters
    ----------
    obj
        The message, as it was given to `dump`.
    module
        The module that the other side cannot import.

    Returns
    -------
    key
        The first such key, or None.
    """
    for key, value in obj.items():
        if _needed_by(value, module):
            return _key_text(key)
    return None


def _needed_by(value: object, module: str) -> bool:
    try:
        needed = _dump(value, 0)[1]
        return needed.mentions(module)
    except Exception:  # noqa: BLE001 - what does not pickle on its own cannot be what the other side failed to unpickle
        return False


def _dump(obj: object, max_buffers: int) -> tuple[Payload, NeededModules]:
    """Pickle by name, or, where something has to go by value, all of it once more with cloudpickle."""
    file, buffers, needed = io.BytesIO(), _Buffers(), NeededModules()
    buffers.limit = max_buffers
    pickler = _Pickler(file, _PROTOCOL, buffer_callback=buffers.keep)
    pickler.needed = needed
    try:
        pickler.dump(obj)
        return Payload(file.getvalue(), buffers, False), needed
    except (ByValue, TypeError, AttributeError, _pickle.PicklingError):
        pass  # the errors are of objects that pickle alone does not know (a module, a property), and cloudpickle may
    from bgpy.protocol.byvalue import ByValuePickler

    file, buffers, needed = io.BytesIO(), _Buffers(), NeededModules()
    buffers.limit = max_buffers
    thorough = ByValuePickler(file, buffers.keep, needed)
    thorough.dump(obj)
    return Payload(file.getvalue(), buffers, thorough.by_value), needed


def _pickling_error(exc: BaseException, obj: object) -> SerializationError:
    """Build the error for what failed, with the key under which it fails on its own as well."""
    key = _failing_key(obj) if isinstance(obj, dict) else None
    if isinstance(exc, SerializationError):
        return SerializationError(exc.reason, key, exc.module)
    return SerializationError(f"Cannot pickle the message: {_describe(exc)}", key)


def _failing_key(message: dict[Any, Any]) -> str | None:
    for key, value in message.items():
        try:
            _dump(value, 0)[1].collect()
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - the very thing that is looked for
            return _key_text(key)
    return None


def _key_text(key: object) -> str:
    return key if isinstance(key, str) else repr(key) if type(key) in _PLAIN else f"a key of type {type(key).__name__}"


def _describe(exc: BaseException) -> str:
    if isinstance(exc, RecursionError) or isinstance(exc.__cause__, RecursionError):  # cloudpickle wraps it
        return "it is nested too deeply"
    if isinstance(exc, MemoryError):
        return "there is not enough memory"
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001 - a user's __str__ that raises must not hide the error itself
        text = ""
    return f"{type(exc).__name__}: {text}".rstrip(" :.")


def _missing_module(exc: BaseException) -> str | None:
    """Name the module that could not be imported here, or that lacks a name that the message asks for."""
    if isinstance(exc, ModuleNotFoundError):
        return exc.name
    if isinstance(exc, AttributeError):
        # The unpickler says: Can't get attribute 'X' on <module 'm' from 'file'>.
        name = str(exc).partition(" on <module '")[2].partition("'")[0]
        # What was pickled by its name in __main__ is missing here; there is nothing to install.
        main = getattr(sys.modules["__main__"], "__spec__", None)
        return name if name and name != "__main__" and (main is None or name != main.name) else None
    return None
