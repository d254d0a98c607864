"""
Several predictions as one: joined along the first axis, run once, and split again.

Joined are predictions of one signature whose inputs have the same dtypes and, but for the first axis, the same shapes, and only
where the model itself says that the first axis of every input and of every output that is asked for may have any length.

That still does not say that the rows of the output belong to the rows of the input: a model may subtract the mean of its batch.
So an output is not trusted before a joined run has given what each prediction alone gives; where it does not, it is never
joined again. No model is known here: what runs it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bgpy.tasks.tensorflow.signatures import Signature, TensorInfo

#: How far apart, in parts of the largest number, two results may be and still be the same: the order of a sum changes that much.
TOLERANCES = {"float64": 1e-9, "complex128": 1e-9, "float32": 1e-4, "complex64": 1e-4}
_COARSE = 2e-2


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

    def _alone(self, query: Query) -> _Answer:
        try:
            return self._run(*query)
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
        # Equal values would not show that one prediction has to do with the other: then there is one more, for the proof alone.
        probe = [different(members[0].feeds)] if unsure and not _differ(members) else []
        feeds = [*(query.feeds for query in members), *probe]
        try:
            joined = self._run(signature, join(feeds), outputs)
        except Exception:  # noqa: BLE001 - run alone, the one that is to blame raises it again
            return [self._alone(query) for query in members] if probe else self._apart(members, outputs)
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

    def _apart(self, members: list[Query], outputs: tuple[str, ...]) -> list[_Answer]:
        """Run each alone after they failed together. Where all go well, it is the joining that the model does not bear."""
        answers = [self._alone(query) for query in members]
        if not any(isinstance(answer, Exception) for answer in answers):
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


def _differ(members: list[Query]) -> bool:
    """Tell whether the values of two queries differ: equal ones would not show that one has to do with the other."""
    first = members[0].feeds
    return any(not np.array_equal(first[name], array) for query in members[1:] for name, array in query.feeds.items())


def different(feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Return other values of the same shapes and dtypes, harmless for most models: zeros and empty texts, or else ones."""
    return {
        name: np.full_like(array, (b"" if array.any() else b"1") if array.dtype.kind == "O" else 0 if array.any() else 1)
        for name, array in feeds.items()
    }


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
