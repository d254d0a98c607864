"""
How long something may take, in seconds of whatever class a caller has.
"""

from __future__ import annotations

import math
from typing import Any

#: The longest wait in seconds, eleven days: what the system takes in milliseconds ends at 24.
MAX_WAIT = 1e6


def plain_seconds(seconds: Any) -> float:
    """Return a number of seconds of whatever class as a plain one; raises TypeError for what is none, such as a timedelta."""
    if type(seconds) is float:
        return seconds
    try:
        if not isinstance(seconds, (str, bytes, bytearray)):  # which float would read
            plain = float(seconds)
            return seconds if type(seconds) is int else plain
    except OverflowError:  # more than a float can be
        return math.inf if seconds > 0 else -math.inf
    except (TypeError, ValueError):
        pass  # no number, or more than one
    raise TypeError(f"A timeout is a number of seconds, or None for no limit, not {seconds!r:.100}.")


def check_timeout(timeout: float | None) -> float | None:
    """Return a timeout as plain seconds, None for no limit; raises TypeError, and ValueError for one below 0 or NaN."""
    if timeout is None:
        return None
    timeout = plain_seconds(timeout)
    if not timeout >= 0:  # so that NaN is none either
        raise ValueError(f"A timeout is a number of seconds from 0 on, or None for no limit, not {timeout}.")
    return timeout


def time_limit(timeout: float | None) -> float:
    """Return the seconds of the wait that a timeout stands for; None is the longest one. Raises as `check_timeout` does."""
    seconds = check_timeout(timeout)
    return MAX_WAIT if seconds is None else min(seconds, MAX_WAIT)
