"""
What log lines look like, wherever bgpy is the one to say so: in the files of servers and clients, and on standard error.
"""

from __future__ import annotations

#: For `logging.Formatter`.
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def log_to_standard_error(level: str) -> None:
    """Show what bgpy logs from a level on, such as "info", and what others log from warnings on."""
    import logging  # costs a start more than all else here, and servers do without it until they are ready

    logging.basicConfig(format=LOG_FORMAT)
    logging.getLogger("bgpy").setLevel(level.upper())
