"""
Several predictions as one: joined along the first axis, run once, and split again.

Joined are predictions of one signature whose inputs have the same dtypes and, but for the first axis, the same shapes, and only
where the model itself says that the first axis of every input and of every output that is asked for may have any length.

That still does not say that the rows of the output belong to the rows of the input: a model may subtract the mean of its batch.
So an output is not trusted before a joined run, with some odd rows put in for the proof, has given what each prediction alone
gives; now and then that is looked at again. Where it does not hold, the output is never joined again. Predictions with texts are
not joined: models make rows of as many words as the longest one has. No model is known here: what runs it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bgpy.tasks.tensorflow.signatures import Signature, TensorInfo

#: How far apart, in parts of the largest number, two results may be and still be the same: the order of a sum changes that much.
TOLERANCES = {"float64": 1e-9, "complex128": 1e-9, "float32": 1e-4, "complex64": 1e-4}
_COARSE = 2e-2
#: So many joined runs after a proof that rows do not depend on each other, it is made again.
RECHECK = 100
#: After so many runs that failed with the odd rows of a proof, it is given up.
MAX_PROOFS = 8


class Query(NamedTuple):
    """
    What one prediction asks of a model.

    Attributes
    ----------
    signature
        What is run. Another signature has another name.
    feeds
        An array for each input, of its dtype, in the order of the signature; see `check_feeds`.
    outputs
        Names of the outputs that are wanted.
    """

    signature: Signature
    feeds: dict[str, Any]
    outputs: tuple[str, ...]


#: Gives the outputs named, by name; raises what the model raises.
Run = Callable[[Signature, dict[str, Any], tuple[str, ...]], Mapping[str, Any]]
_Answer = Mapping[str, Any] | Exception


class Batcher:
    """
    Answer predictions of one version of one model. For one thread.

    Parameters
    ----------
    run
        Runs the model.
    max_rows
        So long may the first axis of what is joined become; 1 joins nothing.
    """

    def __init__(self, run: Run, max_rows: int) -> None:
        self._run = run
        self._max_rows = max_rows
        self._open: dict[tuple[str, tuple[str, ...]], bool] = {}
        self._trusted: set[tuple[str, str]] = set()
        self._distrusted: set[tuple[str, str]] = set()
        self._joined = 0
        self._failed_proofs = 0
        self._runs = 0

    def joins(self, signature: Signature) -> bool:
        """Tell whether predictions of all outputs of a signature are joined, as far as is known by now."""
        return self._max_rows > 1 and self._may_join(signature, tuple(signature.outputs))

    def answer(self, queries: Sequence[Query]) -> list[_Answer]:
        """Return for each query its outputs by name, or what running it raised."""
        if len(queries) == 1:
            return [self._alone(queries[0])]
        answers: list[Any] = [None] * len(queries)
        for group in self._groups(queries):
            members = [queries[index] for index in group]
            for index, answer in zip(group, self._together(members), strict=True):
                answers[index] = answer
        return answers

    def take_runs(self) -> int:
        """Return how often the model has run without an error since this was asked last."""
        runs, self._runs = self._runs, 0
        return runs

    def _count_run(self, signature: Signature, feeds: dict[str, Any], outputs: tuple[str, ...]) -> Mapping[str, Any]:
        answer = self._run(signature, feeds, outputs)
        self._runs += 1
        return answer

    def _alone(self, query: Query) -> _Answer:
        try:
            return self._count_run(*query)
        except Exception as error:  # noqa: BLE001 - whatever the model raises is this prediction's outcome
            return error

    def _groups(self, queries: Sequence[Query]) -> list[list[int]]:
        """Return the places of those that run together, each group in the order of its first."""
        groups: list[list[int]] = []
        room: dict[Any, tuple[list[int], int]] = {}
        for index, query in enumerate(queries):
            rows = self._rows(query)
            if rows is None:
                groups.append([index])
                continue
            key = (query.signature.name, *[array.shape[1:] for array in query.feeds.values()])
            group, taken = room.get(key, (None, 0))
            if group is None or taken + rows > self._max_rows:
                group, taken = [], 0
                groups.append(group)
            group.append(index)
            room[key] = group, taken + rows
        return groups

    def _rows(self, query: Query) -> int | None:
        """Return how many rows a query has, None where it has to run alone."""
        if not self._may_join(query.signature, query.outputs):
            return None
        rows = {len(array) for array in query.feeds.values()}
        count = rows.pop()
        return None if rows or not 0 < count < self._max_rows else count

    def _may_join(self, signature: Signature, outputs: tuple[str, ...]) -> bool:
        key = signature.name, outputs
        known = self._open.get(key)
        if known is None:
            tensors = [*signature.inputs.values(), *(signature.outputs[name] for name in outputs)]
            known = bool(signature.inputs) and all(map(_has_free_rows, tensors))
            known = known and all(info.dtype != "string" for info in signature.inputs.values())
            known = known and not any((signature.name, name) in self._distrusted for name in outputs)
            if len(self._open) > 1000:
                self._open.clear()
            self._open[key] = known
        return known

    def _together(self, members: list[Query]) -> Sequence[_Answer]:
        if len(members) == 1:
            return [self._alone(members[0])]
        signature = members[0].signature
        outputs = tuple(dict.fromkeys(name for query in members for name in query.outputs))
        unsure = [name for name in outputs if (signature.name, name) not in self._trusted]
        odd = odd_rows(members[0].feeds) if unsure else []
        self._joined += 1
        if self._joined % RECHECK == 0:
            unsure = list(outputs)
        feeds = [*(query.feeds for query in members), *odd]
        try:
            joined = self._count_run(signature, join(feeds), outputs)
        except Exception:  # noqa: BLE001 - run alone, the one that is to blame raises it again
            return self._apart(members, outputs, bool(odd))
        counts = [len(next(iter(each.values()))) for each in feeds]
        if any(joined[name].shape[:1] != (sum(counts),) for name in outputs):
            self._distrust(signature, outputs)
            return [self._alone(query) for query in members]
        parts = split(joined, counts)[: len(members)]
        if not unsure:
            return parts
        answers = [self._alone(query) for query in members]
        self._judge(members, parts, answers, unsure)
        return answers

    def _apart(self, members: list[Query], outputs: tuple[str, ...], odd: bool) -> list[_Answer]:
        """
        Run each alone after they failed together.

        Where all go well, it is the joining that the model does not bear, or the odd rows: then it is tried again, a few times.
        """
        answers = [self._alone(query) for query in members]
        if not any(isinstance(answer, Exception) for answer in answers):
            self._failed_proofs += odd
            if not odd or self._failed_proofs >= MAX_PROOFS:
                self._distrust(members[0].signature, outputs)
        return answers

    def _judge(self, members: list[Query], parts: list[dict[str, Any]], answers: list[_Answer], unsure: list[str]) -> None:
        """Trust the outputs that a joined run gave as runs alone do, and none that it gave otherwise."""
        signature = members[0].signature
        for name in unsure:
            pairs = [
                (part[name], answer) for query, part, answer in zip(members, parts, answers, strict=True) if name in query.outputs
            ]
            if not all(not isinstance(answer, Exception) and same(part, answer[name]) for part, answer in pairs):
                self._distrust(signature, [name])
            elif len(pairs) == len(members):
                self._trusted.add((signature.name, name))

    def _distrust(self, signature: Signature, outputs: Iterable[str]) -> None:
        self._distrusted.update((signature.name, name) for name in outputs)
        self._trusted.difference_update(self._distrusted)
        self._open.clear()


def _has_free_rows(info: TensorInfo) -> bool:
    return bool(info.shape) and info.shape is not None and info.shape[0] is None


def odd_rows(feeds: Mapping[str, Any]) -> list[dict[str, Any]]:
    """
    Return rows of the shapes and dtypes of these, one in each of them, that a model whose rows depend on each other will notice.

    Zeros, or ones where these are zeros; and where there are floats, a row above and one below all that these have.
    """
    first = {name: array[:1] for name, array in feeds.items()}
    rows = [{name: np.full_like(array, 0 if array.any() else 1) for name, array in first.items()}]
    if any(array.dtype.kind == "f" for array in first.values()):
        rows += [{name: _far(feeds[name], array, sign) for name, array in first.items()} for sign in (1, -1)]
    return rows


def _far(values: Any, row: Any, sign: int) -> Any:
    if row.dtype.kind != "f":
        return row
    top = np.abs(values[np.isfinite(values)]).max(initial=1)
    return np.full_like(row, sign * min(100 * float(top), float(np.finfo(row.dtype).max) / 2))


def join(feeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the values of several predictions as those of one, one after the other along the first axis."""
    return {name: np.concatenate([each[name] for each in feeds]) for name in feeds[0]}


def split(outputs: Mapping[str, Any], counts: Sequence[int]) -> list[dict[str, Any]]:
    """Return the outputs of each of several predictions that were joined, as views."""
    parts = []
    start = 0
    for count in counts:
        end = start + count
        parts.append({name: array[start:end] for name, array in outputs.items()})
        start = end
    return parts


def same(joined: Any, alone: Any) -> bool:
    """Tell whether two results are equal; numbers that are no integers may differ by what another order of summing changes."""
    if joined.shape != alone.shape or joined.dtype != alone.dtype:
        return False
    if joined.dtype.kind in "biuOSU" or not joined.size:
        return bool(np.array_equal(joined, alone))
    tolerance = TOLERANCES.get(joined.dtype.name, _COARSE)
    wide = np.complex128 if joined.dtype.kind == "c" else np.float64
    one, other = joined.astype(wide), alone.astype(wide)
    finite = np.isfinite(one)
    if not np.array_equal(finite, np.isfinite(other)) or not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return False
    one, other = one[finite], other[finite]
    scale = np.abs(other).max(initial=0.0)
    return bool((np.abs(one - other) <= tolerance * scale).all())
