"""
Which servers' state this thread of control holds: a call to one of them would wait for itself.
"""

from __future__ import annotations

import contextvars

#: The instance ids of those servers.
held_instances: contextvars.ContextVar[tuple[bytes, ...]] = contextvars.ContextVar("bgpy_held_instances", default=())
#: Return them. Bound once, for every request asks: an attribute of an imported name is looked up anew each time.
get_held_instances = held_instances.get
