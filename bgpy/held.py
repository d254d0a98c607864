"""
Which servers' state this thread of control holds: a call to one of them would wait for itself.
"""

from __future__ import annotations

import contextvars

#: The instance ids of those servers.
held_instances: contextvars.ContextVar[tuple[bytes, ...]] = contextvars.ContextVar("bgpy_held_instances", default=())
