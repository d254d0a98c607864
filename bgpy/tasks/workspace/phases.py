"""
For the queue alone: where its running job, its worker and the stop that was asked for are.
"""

from __future__ import annotations

import enum


class Phase(enum.Enum):
    """How far the running job has come on its way to the worker."""

    #: RUNNING is not on the disk yet.
    COMMITTING = 0
    #: There was no worker when that was done.
    WAITING = 1
    #: The driver is handing it over.
    HANDING = 2
    HANDED = 3


class Worker(enum.Enum):
    """What a queue knows of its worker."""

    NONE = 0
    STARTING = 1
    READY = 2
    #: A kill is under way: whatever it would be given now would die with it.
    DOOMED = 3


class Stop(enum.IntEnum):
    """Who asked the running job to end; the strongest counts."""

    NOBODY = 0
    INTERRUPT = 1
    LIMIT = 2
    KILL = 3
