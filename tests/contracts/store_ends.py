"""What every store must do for commands that have ended: late answers, doubts, replays, dead letters."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import msgspec
import pytest

from cloud_broker.store.answers import IdempotencyConflict
from cloud_broker.store.base import Store
from cloud_broker.store.commands import CommandError, CommandFilter, Resolution, Step
from cloud_broker.store.dead_letters import MAX_SKIPPED, ReplayRun, Skipped
from protocol.states import DEAD_LETTERS, FINAL, CommandState
from tests.contracts.records import ACME, OTHER, START, command, finish


class EndContract:
    """Late answers, doubts, replays, dead letters."""

    async def test_an_ended_command_takes_a_late_answer_but_no_failed_attempt(self, store: Store) -> None:
        one = command()
        await store.add_command(ACME, one)
        await store.finish(ACME, one.id, finish())
        ended = await store.command(ACME, one.id)

        await store.requeue(ACME, one.id, step=Step(one.id, START + 2, "attempt_failed"), failures=1)
        await store.add_step(ACME, Step(one.id, START + 3, "late_answer"))

        assert [step.step for step in await store.steps(ACME, one.id)] == ["late_answer"]
        assert await store.command(ACME, one.id) == ended

    @pytest.mark.parametrize("state", sorted(CommandState))
    async def test_only_what_is_in_doubt_is_resolved_and_once(self, store: Store, state: CommandState) -> None:
        one = command()
        await store.add_command(ACME, one)
        doubt = CommandError("technical", "in_doubt", "the link was lost")
        if state in FINAL:
            await store.finish(ACME, one.id, finish(state, error=doubt))
        before = await store.command(ACME, one.id)
        assert before is not None
        found = Resolution("not_happened", "key_1", START + 5, "Ada", "no such order")
        answer = CommandError("technical", "not_happened", "looked")

        answers = [await store.resolve(ACME, one.id, CommandState.FAILED, found, answer) for _ in range(2)]

        resolved = msgspec.structs.replace(before, state=CommandState.FAILED, error=answer, resolution=found)
        in_doubt = state is CommandState.IN_DOUBT
        assert answers == [in_doubt, False]
        assert await store.command(ACME, one.id) == (resolved if in_doubt else before)
        steps = await store.steps(ACME, one.id)
        assert [(step.step, step.at, step.outcome, step.error) for step in steps] == [
            ("resolved", START + 5, "in_doubt", doubt)
        ] * in_doubt

    async def test_what_was_in_doubt_becomes_nothing_but_succeeded_or_failed(self, store: Store) -> None:
        with pytest.raises(ValueError, match="in doubt"):
            await store.resolve(ACME, "cmd_1", CommandState.EXPIRED, Resolution("happened", "k", START), None)

    async def test_a_command_is_replayed_once(self, store: Store) -> None:
        one = command(idempotency_key="k1")
        await store.add_command(ACME, one)
        await store.finish(ACME, one.id, finish(CommandState.FAILED))
        tries = [command(replay_of=one.id) for _ in range(8)]

        answers = await asyncio.gather(*(store.replay(ACME, one.id, again) for again in tries))

        assert sum(new for _, new in answers) == 1
        (replay,) = {kept.id: kept for kept, _ in answers}.values()
        assert replay.replay_of == one.id
        found = await store.command(ACME, one.id)
        assert found is not None
        assert found.replayed_by == replay.id
        assert await store.command(ACME, replay.id) == replay
        assert [(step.step, step.at, step.detail) for step in await store.steps(ACME, one.id)] == [
            ("replayed", replay.created_at, replay.id)
        ]
        assert [kept.id for kept in await store.open_commands()] == [replay.id]

    async def test_what_was_replayed_is_no_dead_letter_any_more(self, store: Store) -> None:
        one = command(correlation_id="c1")
        await store.add_command(ACME, one)
        await store.finish(ACME, one.id, finish(CommandState.FAILED))
        await store.replay(ACME, one.id, command(correlation_id="c1", replay_of=one.id))

        for wanted in (CommandFilter(dead_letters=True), CommandFilter(dead_letters=True, correlation_id="c1")):
            assert (await store.commands(ACME, wanted, None, 10)).items == []
        assert len((await store.commands(ACME, CommandFilter(state=CommandState.FAILED), None, 10)).items) == 1

    async def test_only_what_is_there_and_has_ended_is_replayed(self, store: Store) -> None:
        one = command()
        await store.add_command(ACME, one)

        for original in (one.id, "cmd_nothing"):
            with pytest.raises(LookupError):
                await store.replay(ACME, original, command())
        assert [kept.id for kept in await store.open_commands()] == [one.id]

    async def test_what_had_happened_has_the_outputs_that_a_late_answer_told(self, store: Store) -> None:
        one = command()
        await store.add_command(ACME, one)
        await store.finish(ACME, one.id, finish(CommandState.IN_DOUBT))
        for at, outcome, outputs in ((5, "succeeded", b'{"no": 1}'), (6, "failed", b'{"no": 2}')):
            await store.add_step(ACME, Step(one.id, START + at, "late_answer", outcome=outcome, outputs=outputs))

        await store.resolve(ACME, one.id, CommandState.SUCCEEDED, Resolution("happened", "k", START + 9), None)

        found = await store.command(ACME, one.id)
        assert found is not None
        assert (found.state, found.error, found.outputs) == ("succeeded", None, b'{"no": 1}')

    async def test_dead_letters_are_counted_and_found_oldest_first(self, store: Store) -> None:
        made = [command(operation=f"op-{number % 2}") for number in range(8)]
        states = sorted(DEAD_LETTERS) * 2 + [CommandState.SUCCEEDED, CommandState.FAILED]
        for one, state in zip(made, states, strict=True):
            await store.add_command(ACME, one)
            await store.finish(ACME, one.id, finish(state))
        await store.replay(ACME, made[7].id, command(replay_of=made[7].id))
        everything = CommandFilter()

        assert await store.count_dead_letters(ACME, everything, 100) == (6, 2)
        assert await store.count_dead_letters(ACME, everything, 4) == (4, 1)
        assert await store.count_dead_letters(ACME, CommandFilter(state=CommandState.EXPIRED), 100) == (2, 0)
        assert await store.count_dead_letters(OTHER, everything, 100) == (0, 0)
        first = await store.dead_letters_after(ACME, everything, "", 4)
        rest = await store.dead_letters_after(ACME, everything, first[-1].id, 4)
        assert [one.id for one in (*first, *rest)] == [one.id for one in made[:6]]
        odd = await store.dead_letters_after(ACME, CommandFilter(operation="op-1"), "", 10)
        assert [one.id for one in odd] == [one.id for one in made[1:6:2]]
        assert await store.dead_letters_after(OTHER, everything, "", 10) == []

    async def test_a_run_knows_what_it_has_done(self, store: Store) -> None:
        wanted = CommandFilter(CommandState.FAILED, "echo", "plant-1", "c1", START, True, START + 9, "timeout")
        run = ReplayRun("rpl_1", "acme", wanted, 150, 2.5, "key_1", START)
        assert await store.add_replay_run(ACME, run) == (run, True)
        assert await store.replay_run(ACME, "rpl_1") == run
        assert await store.open_replay_runs() == [run]
        one = command()
        await store.add_command(ACME, one)
        await store.finish(ACME, one.id, finish(CommandState.FAILED))

        await store.replay(ACME, one.id, command(replay_of=one.id), "rpl_1")
        await store.replay(ACME, one.id, command(replay_of=one.id), "rpl_1")
        for number in range(MAX_SKIPPED + 5):
            await store.replay_skipped(ACME, "rpl_1", Skipped(f"cmd_{number}", 'it is "in doubt"'))

        found = await store.replay_run(ACME, "rpl_1")
        assert found is not None
        assert (found.replayed, found.skipped_count, found.cursor) == (1, MAX_SKIPPED + 5, f"cmd_{MAX_SKIPPED + 4}")
        assert found.skipped == tuple(Skipped(f"cmd_{number}", 'it is "in doubt"') for number in range(MAX_SKIPPED))

    async def test_a_run_ends_once_and_goes_with_its_time(self, store: Store) -> None:
        for number in range(3):
            await store.add_replay_run(ACME, ReplayRun(f"rpl_{number}", "acme", CommandFilter(), 1, 1.0, "k", START))
        assert await store.end_replay_run(ACME, "rpl_0", "cancelled", START + 1)
        assert not await store.end_replay_run(ACME, "rpl_0", "done", START + 2)
        assert await store.end_replay_run(ACME, "rpl_1", "done", START + 20)

        assert [run.id for run in await store.open_replay_runs()] == ["rpl_2"]
        page = await store.replay_runs(ACME, None, 2)
        assert [(run.id, run.state) for run in page.items] == [("rpl_2", "running"), ("rpl_1", "done")]
        last = await store.replay_runs(ACME, page.next, 2)
        assert [(run.id, run.finished_at) for run in last.items] == [("rpl_0", START + 1)]
        assert last.next is None
        await store.forget_before(START + 10, 10)
        assert [run.id for run in (await store.replay_runs(ACME, None, 9)).items] == ["rpl_2", "rpl_1"]

    async def test_what_is_in_doubt_is_not_forgotten_before_it_is_resolved(self, store: Store) -> None:
        one = command()
        await store.add_command(ACME, one)
        await store.finish(ACME, one.id, finish(CommandState.IN_DOUBT))
        await store.forget_before(START + 1_000, 10)
        assert await store.command(ACME, one.id) is not None
        found = Resolution("happened", "key", START + 2_000)
        await store.resolve(ACME, one.id, CommandState.SUCCEEDED, found, None)
        await store.forget_before(START + 1_000, 10)
        assert await store.command(ACME, one.id) is not None, "who found it out has not acted on it yet"
        await store.forget_before(START + 3_000, 10)
        assert await store.command(ACME, one.id) is None

    async def test_one_idempotency_key_makes_one_run(self, store: Store) -> None:
        def run(number: int, fingerprint: str = "f1") -> ReplayRun:
            key: dict[str, Any] = {"idempotency_key": "k1", "fingerprint": fingerprint}
            return ReplayRun(f"rpl_{number}", "acme", CommandFilter(), 1, 1.0, "key", START, **key)

        assert await store.add_replay_run(ACME, run(1)) == (run(1), True)
        assert await store.add_replay_run(ACME, run(2)) == (run(1), False)
        with pytest.raises(IdempotencyConflict):
            await store.add_replay_run(ACME, run(3, "f2"))
        assert (await store.add_replay_run(OTHER, dataclasses.replace(run(4, "f2"), tenant="other")))[1]

    async def test_a_run_is_its_tenants_alone(self, store: Store) -> None:
        run = ReplayRun("rpl_1", "acme", CommandFilter(), 1, 1.0, "k", START)
        await store.add_replay_run(ACME, run)

        assert await store.replay_run(OTHER, "rpl_1") is None
        assert (await store.replay_runs(OTHER, None, 9)).items == []
        await store.replay_skipped(OTHER, "rpl_1", Skipped("cmd_1", "no"))
        assert not await store.end_replay_run(OTHER, "rpl_1", "cancelled", START)
        assert await store.replay_run(ACME, "rpl_1") == run
