"""
The asyncio client: the same protocol, driven by an event loop. Nothing else in the package imports asyncio.
"""

from __future__ import annotations

from bgpy.aio.client import AsyncClient

__all__ = ["AsyncClient"]
