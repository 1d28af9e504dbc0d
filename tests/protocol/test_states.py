"""The two tables."""

from __future__ import annotations

import pytest

from protocol.messages import AGENT_SAYS, BROKER_SAYS, Ack, Cancel, Completed, Credit
from protocol.states import DEAD_LETTERS, FINAL, LIFE, PHASES, CommandState, Phase


def test_each_phase_but_the_first_can_be_reached_and_left() -> None:
    reached = {following for row in PHASES.values() for following in row.values()}
    # HELD comes with Holding, and a Cancel leaves it as it is.
    assert reached == set(Phase) - {Phase.UNKNOWN}
    for phase, row in PHASES.items():
        assert phase is Phase.FORGOTTEN or set(row.values()) - {phase}, f"{phase} is a trap"


def test_what_may_cross_an_end_on_the_wire_is_legal_there() -> None:
    assert {Credit, Cancel, Ack} <= set(PHASES[Phase.ENDED])


def test_an_end_can_be_told_from_any_phase_in_which_the_agent_works() -> None:
    for phase in (Phase.OFFERED, Phase.ACCEPTED, Phase.RUNNING):
        assert PHASES[phase][Completed] is Phase.ENDED


def test_every_message_about_a_command_is_for_one_side_only() -> None:
    for row in PHASES.values():
        for message in row:
            assert (message in AGENT_SAYS) != (message in BROKER_SAYS)


@pytest.mark.parametrize("state", list(CommandState))
def test_a_final_state_is_never_left_but_doubt_and_each_other_one_leads_to_one(state: CommandState) -> None:
    if state is CommandState.IN_DOUBT:
        assert LIFE[state] == {CommandState.SUCCEEDED, CommandState.FAILED}
    elif state in FINAL:
        assert LIFE[state] == frozenset()
    else:
        assert LIFE[state] & FINAL
    assert DEAD_LETTERS < FINAL
