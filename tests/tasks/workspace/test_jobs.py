"""Where each event takes a job, in every state; and what is kept of its output."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpy.tasks.workspace.jobs import MAX_OUTPUT, TRANSITIONS, JobEvent, JobState, Tail, next_state

ENDED = {"done", "failed", "cancelled", "interrupted", "killed", "timed_out", "crashed", "aborted"}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(JobState, JobEvent)))
def test_the_table_is_all_that_can_happen(state: JobState, event: JobEvent) -> None:
    if (state, event) in TRANSITIONS:
        assert next_state(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(ValueError, match=f"A job that is {state.value} knows no {event.value}"):
            next_state(state, event)


def test_nothing_follows_an_end_and_every_state_can_be_reached_from_the_first() -> None:
    assert {state.value for state in JobState if state.ended} == ENDED
    assert not [state for state, _ in TRANSITIONS if state.ended]
    reached = {JobState.QUEUED}
    while following := {after for (before, _), after in TRANSITIONS.items() if before in reached} - reached:
        reached |= following
    assert reached == set(JobState)


def test_every_event_is_used_and_every_unended_state_has_a_way_to_an_end() -> None:
    assert {event for _, event in TRANSITIONS} == set(JobEvent)
    for state in JobState:
        if not state.ended:
            assert any(before is state and after.ended for (before, _), after in TRANSITIONS.items())


def test_the_result_is_true_for_what_ran_through_false_for_other_ends_and_none_before() -> None:
    assert {state.value: state.result for state in JobState} == {
        **dict.fromkeys(ENDED, False),
        "done": True,
        **dict.fromkeys(("queued", "running", "held")),
    }


@given(st.lists(st.binary(max_size=7)), st.integers(1, 10))
def test_a_tail_keeps_the_last_bytes_and_says_how_many_were_cut(pieces: list[bytes], limit: int) -> None:
    tail = Tail(limit)
    for piece in pieces:
        tail.add(piece)
    whole = b"".join(pieces)
    assert tail.size == len(whole)
    assert tail.truncated == (len(whole) > limit)
    if len(whole) <= limit:
        assert tail.read() == whole
    else:
        assert tail.read() == b"[... %d bytes were cut here ...]\n" % (len(whole) - limit) + whole[-limit:]


def test_a_flood_is_not_kept_in_memory() -> None:
    tail = Tail()
    for _ in range(100):
        tail.add(b"x" * MAX_OUTPUT)
    assert len(tail.read()) < MAX_OUTPUT + 100
    assert len(tail._kept) <= 3 * MAX_OUTPUT
