"""Processes that a job tells of, and their end."""

from __future__ import annotations

from bgpy.system import process_start_time, wait_for_end
from support.backends import PATIENCE, Session


def process_of(pid: int) -> tuple[int, str]:
    """Return a running process: its number and its start."""
    start_time = process_start_time(pid)
    assert start_time is not None
    return pid, start_time


def wait_until_gone(processes: list[tuple[int, str]]) -> None:
    for pid, start_time in processes:
        assert wait_for_end(pid, start_time, PATIENCE), f"process {pid} lives"


def said_pids(session: Session, number: int, count: int) -> list[tuple[int, str]]:
    """Wait for a job to print so many pids, a line each."""
    session.recorder.wait_for(lambda: session.recorder.text(number).count("\n") >= count)
    return [process_of(int(pid)) for pid in session.recorder.text(number).split()]
