"""
Python values as JSON: one set of rules for workers, the gateway and the command line.

==============================================  ====================================================================
None, bools, texts, numbers                     themselves; an integer of more than 1,023 bits becomes a text
NaN and the infinities, NaT, NA                 null
mappings                                        objects; keys become texts, and two that read the same stay apart
lists, tuples, deques, ranges, views of dicts   arrays
sets                                            arrays, sorted where they can be
named tuples, dataclasses                       objects
enumerations                                    what their value becomes
bytes                                           text in base64
dates, times, moments                           text in ISO 8601
spans of time                                   seconds
paths                                           text
numpy arrays and numbers, and all of that kind  nested arrays and numbers; moments to the microsecond
Series and Index of pandas                      arrays of their values
data frames                                     text in CSV, the index first
figures, and what has ``_repr_png_``            a PNG, as text in base64
containers within themselves or too deep        ``"[...]"``, ``"{...}"``
all else                                        its ``str``
==============================================  ====================================================================

Arrays, tables and figures are known by what they can do, so none of their packages is imported here.
"""

from __future__ import annotations

import enum
import json
import os
from collections import deque
from collections.abc import Iterable, Mapping, MappingView, Set
from itertools import islice
from json.encoder import encode_basestring
from typing import Any

#: Levels of containers within one another; a JSON reader of any language takes that many.
MAX_DEPTH = 100
#: Up to here a reader whose numbers are all doubles still gets a finite one.
_MAX_BITS = 1023
#: Elements of an array that are converted at once, between two looks at how much room is left.
_BLOCK = 8192
#: A range takes no memory, its items do: a longer one is shown as its text.
_MAX_RANGE = 1_000_000
_SEQUENCES = (list, tuple, set, frozenset, deque, range, MappingView)
_INFINITIES = (float("inf"), float("-inf"))


class _Full(BaseException):
    """Say, between these functions only, that the JSON text passes its limit."""


def to_json(value: object) -> Any:
    """
    Return a value as what `json.dumps` writes as strict JSON: dicts with text keys, lists, texts, finite numbers, bools, None.

    Raises nothing but KeyboardInterrupt, whatever the value's own methods do. Its `str` stands for a value whose methods fail.
    """
    return _Converter(None).convert(value)


def to_json_limited(value: object, limit: int | None, nulls: set[str] | None = None) -> Any:
    """
    As `to_json`, but only describe a value whose JSON text would pass `limit` bytes; None is no limit.

    The text that counts is the shortest in UTF-8: no blanks, letters as they are. A description is ``{"type": NAME, "shape":
    LENGTHS, "truncated": True}``, where the shape of what has no length is None. What is too large is found so without its JSON
    being made: the work done is in proportion to the limit.

    `nulls` takes what each null stands for: ``None``, ``NaN``, ``inf``, ``-inf``, ``NaT``, ``NA``. See `other_nulls`.
    """
    try:
        return _Converter(limit, nulls).convert(value)
    except _Full:
        return {"type": type_name(value), "shape": shape_of(value), "truncated": True}


def other_nulls(nulls: Set[str]) -> list[str]:
    """Return in order what nulls stand for; nothing where all are None, as JSON says it."""
    return sorted(nulls) if nulls - {"None"} else []


class _Converter:
    """Convert one value; `left` is the room for what is still to come, `nulls` what became null."""

    __slots__ = ("left", "limited", "nulls", "path")

    def __init__(self, limit: int | None, nulls: set[str] | None = None) -> None:
        self.limited = limit is not None
        self.left: float = float("inf") if limit is None else limit
        self.nulls = set() if nulls is None else nulls
        #: The containers around the value in hand.
        self.path: list[int] = []

    def convert(self, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            return self.text(value)
        if value is None:
            return self.null("None")
        if kind is bool:
            return self.take(value, 4 if value else 5)
        if kind is int:
            return self.integer(value)
        if kind is float:
            return self.number(value)
        left = self.left
        try:
            if id(value) not in self.path and len(self.path) < MAX_DEPTH:
                self.path.append(id(value))
                try:
                    return self.any(value, kind)
                finally:
                    self.path.pop()
            shown = "[...]" if isinstance(value, (list, tuple, deque)) else "{...}" if isinstance(value, (Mapping, set)) else None
            return self.text(shown or f"<{type_name(value)} ...>")
        except (KeyboardInterrupt, _Full):
            raise
        except BaseException:  # noqa: BLE001 - the value's own methods raise what they like, SystemExit too
            self.left = left  # what was made of it so far is dropped
            return self.text(_show(value))

    def take(self, value: Any, size: int) -> Any:
        """Return a value whose JSON has that size, where there is room."""
        self.left -= size
        if self.left < 0:
            raise _Full
        return value

    def null(self, word: str) -> None:
        """Convert what JSON has no word for, and note which word Python has."""
        self.nulls.add(word)
        self.take(None, 4)

    def need(self, size: int) -> None:
        """Give up early where there is no room for at least so many bytes."""
        if size > self.left:
            raise _Full

    def text(self, value: str) -> str:
        if not self.limited:
            return _clean(value)
        self.need(len(value) + 2)
        value = _clean(value)
        quoted = encode_basestring(value)
        return self.take(value, len(quoted) if quoted.isascii() else len(quoted.encode("utf-8")))  # type: ignore[no-any-return]

    def ascii(self, value: str) -> str:
        """Convert a text that has nothing to escape."""
        return self.take(value, len(value) + 2)  # type: ignore[no-any-return]

    def integer(self, value: int) -> int | str:
        if value.bit_length() <= _MAX_BITS:
            return self.take(value, len(int.__repr__(value)) if self.limited else 0)  # type: ignore[no-any-return]
        self.need(value.bit_length() // 4)
        try:
            return self.ascii(int.__repr__(value))
        except ValueError:  # Python itself writes integers in decimals up to a limit only
            return self.ascii(int.__format__(value, "#x"))

    def number(self, value: float) -> float | None:
        if value != value or value in _INFINITIES:
            self.null(_word(value))
            return None
        return self.take(value, len(float.__repr__(value)) if self.limited else 0)  # type: ignore[no-any-return]

    def any(self, value: Any, kind: Any) -> Any:
        """Convert what may be anything; raises whatever the value's own methods raise."""
        if kind is dict or isinstance(value, Mapping):
            return self.items(value.items(), len(value))
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            return self.items(zip(kind._fields, value, strict=True), len(value))
        if isinstance(value, _SEQUENCES):
            return self.sequence(value)
        if isinstance(value, enum.Enum):
            return self.convert(value.value)
        if isinstance(value, type):
            return self.text(str(value))  # a class has the abilities of its instances in name only
        return self.single(value, kind)

    def single(self, value: Any, kind: Any) -> Any:
        """Convert what is no container; of a subclass of a plain type only what that type knows."""
        if isinstance(value, str):
            return self.text(str.__str__(value))
        if isinstance(value, int):
            return self.integer(int.__int__(value))
        if isinstance(value, float):
            return self.number(float.__float__(value))
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self.base64(value)
        if isinstance(value, os.PathLike):
            return self.text(os.fsdecode(value))
        return self.able(value, kind)

    def able(self, value: Any, kind: Any) -> Any:
        """Convert a value by what its type can do."""
        if (hasattr(kind, "_repr_png_") or hasattr(kind, "savefig")) and (picture := _picture(value, kind)) is not None:
            return self.ascii(picture) if isinstance(picture, str) else self.base64(picture)
        if hasattr(kind, "__dataclass_fields__"):
            import dataclasses

            names = [field.name for field in dataclasses.fields(value)]
            return self.items(((name, getattr(value, name)) for name in names), len(names))
        if kind.__name__ in ("NaTType", "NAType"):
            return self.null(kind.__name__.removesuffix("Type"))  # pandas says so of what is missing
        if hasattr(kind, "is_finite") and not value.is_finite():
            return self.null(_word(value))  # Decimal has a NaN and infinities of its own
        if hasattr(kind, "total_seconds"):
            return self.number(float(value.total_seconds()))
        if hasattr(kind, "isoformat"):
            return self.text(value.isoformat())
        if hasattr(kind, "columns") and (hasattr(kind, "to_csv") or hasattr(kind, "write_csv")):
            return self.table(value, kind)
        if hasattr(kind, "dtype") or hasattr(kind, "typecode"):
            return self.array(value, kind)
        return self.text(str(value))

    def base64(self, value: bytes | bytearray | memoryview) -> str:
        size = value.nbytes if isinstance(value, memoryview) else len(value)
        self.need((size + 2) // 3 * 4 + 2)
        import base64

        return self.ascii(base64.b64encode(bytes(value)).decode("ascii"))

    def sequence(self, values: Any) -> Any:
        count = len(values)
        if isinstance(values, range) and count > _MAX_RANGE:
            return self.text(str(values))
        self.need(max(2 * count + 1, 2))
        # All at once: others may change it meanwhile. Not further than its length: a class of the user may go on for ever.
        items = list(islice(values, count))
        if isinstance(values, (set, frozenset)):
            try:
                items.sort()
            except Exception:  # noqa: BLE001 - they have no order: any will do
                pass
        self.take(None, max(count + 1, 2))
        return [self.convert(item) for item in items]

    def items(self, items: Iterable[tuple[Any, Any]], count: int) -> dict[str, Any]:
        self.need(max(5 * count + 1, 2))
        self.take(None, max(2 * count + 1, 2))
        result: dict[str, Any] = {}
        doubles: dict[str, int] = {}
        for key, value in list(islice(items, count)):
            name = key if type(key) is str else _key(key)
            if not name.isascii():
                name = _clean(name)
            while name in result:  # 1 and "1" are two keys in Python: neither may take the other's place
                marked = f"{name} ({type_name(key)})"
                doubles[marked] = doubles.get(marked, 0) + 1
                name = marked if doubles[marked] == 1 else f"{marked} {doubles[marked]}"
            self.text(name)
            result[name] = self.convert(value)
        return result

    def table(self, value: Any, kind: Any) -> str:
        rows, columns = value.shape
        self.need(rows * columns)
        if not hasattr(kind, "to_csv"):
            return self.text(value.write_csv())
        sheet = _Sheet(self.left)
        value.to_csv(sheet, lineterminator="\n", chunksize=max(1, _BLOCK // max(columns, 1)))
        return self.text("".join(sheet.parts))

    def array(self, value: Any, kind: Any) -> Any:
        """Convert an array, one of its numbers, or what is like one."""
        self.need(2 * _count(value) - 1)
        if not hasattr(kind, "tolist"):
            return self.convert(value.to_list() if hasattr(kind, "to_list") else value.__array__())
        dtype: Any = getattr(value, "dtype", None)
        if kind.__name__ == "ndarray" and value.ndim and dtype.kind in "biuf" and dtype.itemsize <= 8:
            return self.rows(value)
        code = getattr(dtype, "str", "")
        own = type(dtype).__module__.startswith("numpy")  # what others call so, as with a time zone, they convert themselves
        if own and code[1:3] in ("M8", "m8") and code[3:] in ("[ns]", "[ps]", "[fs]", "[as]"):
            value = value.astype(f"{code[:3]}[us]")  # finer ones would come as bare integers
        plain = value.tolist()
        if type(plain) is kind:  # a number of a kind that Python has not, as one of 128 bits
            return self.number(float(plain)) if dtype.kind == "f" else self.text(str(plain))
        return self.convert(plain)

    def rows(self, array: Any) -> list[Any]:
        """Convert an array of plain numbers with at least one dimension, some rows at a time; most work happens in C."""
        count = len(array)
        width = _count(array[0]) if count else 1
        self.take(None, max(count + 1, 2))
        if width > _BLOCK:
            return [self.rows(row) for row in array]
        result: list[Any] = []
        step = max(1, _BLOCK // max(width, 1))
        for start in range(0, count, step):
            block = array[start : start + step]
            plain = block.tolist()
            if array.dtype.kind == "f" and not ((block == block) & (abs(block) != _INFINITIES[0])).all():
                plain = [self.convert(row) for row in plain]
            elif self.limited:
                self.take(None, len(json.dumps(plain, separators=(",", ":"))) - len(plain) - 1)
            result += plain
        return result


class _Sheet:
    """A file that takes a table's text as long as there is room for it."""

    def __init__(self, left: float) -> None:
        self.left = left
        self.parts: list[str] = []

    def write(self, text: str) -> int:
        self.left -= len(text)
        if self.left < 0:
            raise _Full
        self.parts.append(text)
        return len(text)

    def flush(self) -> None:
        """Do nothing."""


def _picture(value: Any, kind: Any) -> bytes | str | None:
    """Return a PNG, its base64, or None where the value has none after all."""
    if not hasattr(kind, "_repr_png_"):
        import io

        file = io.BytesIO()
        value.savefig(file, format="png")
        return file.getvalue()
    picture = value._repr_png_()
    if isinstance(picture, tuple):  # with metadata
        picture = picture[0]
    return picture if isinstance(picture, (bytes, str)) else None


def _word(number: Any) -> str:
    """Return what Python calls a number that is not finite."""
    return "inf" if number == _INFINITIES[0] else "-inf" if number == _INFINITIES[1] else "NaN"


def _count(array: Any) -> int:
    """Count the elements of an array, by its shape where it tells one."""
    shape = getattr(array, "shape", None)
    if shape is None:
        return len(array)
    count = 1
    for length in shape:
        count *= int(length)
    return count


def _key(key: object) -> str:
    converted = to_json(key)
    return converted if isinstance(converted, str) else _clean(_show(key))


def _clean(text: str) -> str:
    """Return a text that UTF-8 can carry: half of a surrogate pair, as in file names that are no UTF-8, cannot."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _show(value: object) -> str:
    for show in (str, repr):
        try:
            return str.__str__(show(value))
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - it cannot even do that
            continue
    return f"<{type_name(value)}>"


def type_name(value: object) -> str:
    """Return the name of a value's type."""
    # Not through the type itself: a metaclass may answer what it likes.
    return _clean(type.__dict__["__name__"].__get__(type(value)))


def shape_of(value: Any) -> list[int] | None:
    """Return the lengths of an array or table, the length of what else has one, None for all other values. Raises nothing."""
    try:
        return [int(length) for length in value.shape] if hasattr(type(value), "shape") else [len(value)]
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - it has no length, or does not tell it
        return None
