"""
Hold every branch between operating systems: sockets, memory, processes, locks, private files, detached children.

Linux is what the tests run on. The macOS sides are small, the Windows sides are in `windows`; both are tested with the platform's
calls replaced. Modules of one platform only are imported where they are used, so that every side can be loaded anywhere.
"""

from bgpy.system.detached import (
    end_spawned,
    open_inherited,
    read_pipe,
    release_spawned,
    reset_signals,
    spawn_detached,
    write_pipe,
)
from bgpy.system.files import (
    check_private_file,
    close_locked,
    lock_file,
    open_locked,
    open_private,
    private_folder,
    user_state_dir,
)
from bgpy.system.following import follow_file
from bgpy.system.forks import call_after_fork
from bgpy.system.machine import anonymous_memory, boot_name, machine_identity, resident_memory
from bgpy.system.processes import kill_process, process_alive, process_start_time, wait_for_end
from bgpy.system.sockets import (
    DONTWAIT,
    IOV_MAX,
    make_probe,
    prepare_listener,
    prepare_socket,
    send_parts,
    socket_pair,
    wait_socket,
)

__all__ = [
    "DONTWAIT",
    "IOV_MAX",
    "anonymous_memory",
    "boot_name",
    "call_after_fork",
    "check_private_file",
    "close_locked",
    "end_spawned",
    "follow_file",
    "kill_process",
    "lock_file",
    "machine_identity",
    "make_probe",
    "open_inherited",
    "open_locked",
    "open_private",
    "prepare_listener",
    "prepare_socket",
    "private_folder",
    "process_alive",
    "process_start_time",
    "read_pipe",
    "release_spawned",
    "reset_signals",
    "resident_memory",
    "send_parts",
    "socket_pair",
    "spawn_detached",
    "user_state_dir",
    "wait_for_end",
    "wait_socket",
    "write_pipe",
]
