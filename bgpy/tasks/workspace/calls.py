"""
Jobs that are no script: a method of an object that another task set keeps in the interpreter.

A task set of models, for instance, pushes a `Call` where the workspace set pushes a script. The interpreter makes one object of
the call's class, its host, with the first call to it; the host lives as long as the interpreter, also through ``clear``.
A class that says ``takes_namespace = True`` is made with the dict that is the jobs' globals.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from bgpy.tasks.workspace.values import Packed


class Call(NamedTuple):
    """
    What a job calls.

    Attributes
    ----------
    host
        ``package.module:Class``, or a function that makes the object; imported in the interpreter, at the first call.
    method
        Takes a list of arguments, one for each job of the batch, and returns as many of `Value`, None, or exceptions: what
        became of each. What it raises itself becomes of all of them. The record has its name as the kind of the job.
    argument
        Plain JSON data, or a `Packed`, which is opened in the interpreter.
    batch
        How many waiting calls of the same host and method may be handed over at once; 1: each alone.
    kept
        Whether the store keeps the job; otherwise it is in memory only, among the last of its kind, and its argument must not
        be plain data for the sake of a restart.
    """

    host: str
    method: str
    argument: dict[str, Any] | Packed
    batch: int = 1
    kept: bool = True
