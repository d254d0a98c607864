"""
What log lines look like, wherever bgpy is the one to say so: in the files of servers and clients, and on standard error.
"""

from __future__ import annotations

import operator

#: For `logging.Formatter`.
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_LEVELS = ("CRITICAL", "FATAL", "ERROR", "WARN", "WARNING", "INFO", "DEBUG", "NOTSET")


def check_level(level: str | int) -> str | int:
    """Return a log level as `logging` takes it, names in capitals; raises ValueError for no such name, and TypeError."""
    if isinstance(level, str):
        if level.upper() not in _LEVELS:
            raise ValueError(f"{level!r:.100} is no log level: use one of {', '.join(_LEVELS)}, or a number.")
        return level.upper()
    if not hasattr(level, "__index__"):
        raise TypeError(f"A log level is a name or a whole number, not {level!r:.100}.")
    return operator.index(level)


def log_to_standard_error(level: str) -> None:
    """Show what bgpy logs from a level on, such as "info", and what others log from warnings on."""
    import logging  # costs a start more than all else here, and servers do without it until they are ready

    logging.basicConfig(format=LOG_FORMAT)
    logging.getLogger("bgpy").setLevel(level.upper())
