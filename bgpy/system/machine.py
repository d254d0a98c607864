"""This machine and the memory of this process."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap

WINDOWS = os.name == "nt"


def machine_identity() -> bytes | None:
    """
    Name this boot and this network namespace in 32 bytes; None where the system cannot say.

    Two processes with the same identity reach each other over loopback without anybody between them.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = bytes.fromhex(file.read().strip().replace("-", ""))
        namespace = os.stat("/proc/self/ns/net")
    except (OSError, ValueError):  # not Linux, or /proc is hidden: then frames carry MACs
        return None
    if len(boot) != 16:
        return None
    return boot + namespace.st_dev.to_bytes(8, "big") + namespace.st_ino.to_bytes(8, "big")


def boot_name() -> str:
    """Name this boot in 8 hex digits, or "" where the system has no boot id."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read(8)
    except OSError:
        return ""


def anonymous_memory(size: int) -> mmap.mmap:
    """
    Map `size` (at least 1) bytes of private memory that take pages only when they are written.

    Raises OSError where there is no room.
    """
    import mmap

    if WINDOWS:
        return mmap.mmap(-1, size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            pass  # advice only: kernels built without huge pages refuse it, and the memory is just as good
    return memory


def resident_memory() -> int:
    """Tell how many bytes of memory this process occupies (its peak, where the system tells no more)."""
    if WINDOWS:
        from bgpy.system import windows

        return windows.resident_memory()
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
