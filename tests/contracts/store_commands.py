"""What every store must do for commands that have not ended, and lists of them."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from cloud_broker.store.answers import IdempotencyConflict
from cloud_broker.store.base import Store
from cloud_broker.store.commands import Command, CommandError, CommandFilter, RowSetInfo, Step
from cloud_broker.tenants import Scope
from protocol.states import DEAD_LETTERS, FINAL, CommandState
from tests.contracts.records import ACME, OTHER, START, command, finish, settled


class CommandContract:
    """Commands, from when they are given to their end, and lists of them."""

    async def test_a_command_comes_back_as_it_was_given(self, store: Store) -> None:
        full = command(
            group="plants",
            effect="once",
            params=b'{"n": 0.10000000000000000000000001, "t": "\xc3\xa9"}',
            correlation_id="c1",
            idempotency_key="k1",
            ordering_key="o1",
            priority=-5,
            traceparent="00-1",
            key_id="key_1",
        )
        for given in (full, command(agent=None, group="plants")):
            assert await store.add_command(ACME, given) == (given, True)
            assert await store.command(ACME, given.id) == given

    async def test_one_idempotency_key_makes_one_command(self, store: Store) -> None:
        tries = [command(idempotency_key="k1") for _ in range(20)]

        answers = await asyncio.gather(*(store.add_command(ACME, one) for one in tries))

        assert sum(new for _, new in answers) == 1
        assert len({kept.id for kept, _ in answers}) == 1
        assert len((await store.commands(ACME, CommandFilter(), None, 50)).items) == 1

    async def test_one_idempotency_key_with_another_request_is_a_conflict(self, store: Store) -> None:
        first, _ = await store.add_command(ACME, command(idempotency_key="k1"))
        await store.finish(ACME, first.id, finish())

        with pytest.raises(IdempotencyConflict):
            await store.add_command(ACME, command(idempotency_key="k1", fingerprint="f2"))
        again, new = await store.add_command(ACME, command(idempotency_key="k1"))
        assert (again.id, again.state, new) == (first.id, CommandState.SUCCEEDED, False)
        _, new = await store.add_command(OTHER, command(OTHER, idempotency_key="k1", fingerprint="f2"))
        assert new

    async def test_one_bad_write_fails_alone(self, store: Store) -> None:
        await store.add_command(ACME, command(idempotency_key="k1"))
        twice = command()
        writes = [store.add_command(ACME, command()) for _ in range(10)]
        writes += [store.add_command(ACME, command(idempotency_key="k1", fingerprint="f2"))]
        writes += [store.add_command(ACME, twice), store.add_command(ACME, twice)]
        writes += [store.add_command(ACME, command()) for _ in range(10)]

        answers = await asyncio.gather(*writes, return_exceptions=True)

        bad = [number for number, answer in enumerate(answers) if isinstance(answer, BaseException)]
        assert bad == [10, 12]
        assert len((await store.commands(ACME, CommandFilter(), None, 100)).items) == 22

    async def test_a_command_lives_from_queued_to_its_end(self, store: Store) -> None:
        one = command()
        await store.add_command(ACME, one)

        await store.dispatched(ACME, one.id, 1, "plant-2", "journal-1", START + 1, durable=False)
        await store.running(ACME, one.id, START + 1)
        await store.requeue(ACME, one.id)
        found = await store.command(ACME, one.id)
        assert found is not None
        assert (found.state, found.epoch, found.agent, found.journal) == (
            CommandState.QUEUED,
            1,
            "plant-2",
            "journal-1",
        )
        await store.dispatched(ACME, one.id, 2, "plant-1", "journal-2", START + 2, durable=True)
        found = await store.command(ACME, one.id)
        assert found is not None
        assert (found.state, found.epoch, found.agent) == (CommandState.DISPATCHED, 2, "plant-1")
        assert found.dispatched_at == START + 2
        await store.running(ACME, one.id, START + 2)
        await settled(store)
        found = await store.command(ACME, one.id)
        assert found is not None
        assert (found.state, found.started_at) == (CommandState.RUNNING, START + 1)
        end = finish(
            outputs=b'{"n": 1.10}',
            row_sets=(RowSetInfo(({"name": "a", "type": "string", "source_type": "text"},), 0, 8, 1),),
            error=CommandError("business", "source_rejected", "no", "P0001"),
            warnings=("w1", "w2"),
            result="inline",
            inline=b'{"a":1}\n',
        )
        assert await store.finish(ACME, one.id, end)
        found = await store.command(ACME, one.id)
        assert found is not None
        assert found.outputs == end.outputs
        assert found.row_sets == end.row_sets
        assert found.error == end.error
        assert found.warnings == end.warnings
        assert (found.state, found.finished_at, found.result) == (CommandState.SUCCEEDED, START + 1, "inline")
        assert await store.inline_result(ACME, one.id) == b'{"a":1}\n'

    async def test_there_is_one_final_state_and_it_stays(self, store: Store) -> None:
        one = command()
        await store.add_command(ACME, one)

        answers = await asyncio.gather(*(store.finish(ACME, one.id, finish(state)) for state in sorted(FINAL)))

        assert answers.count(True) == 1
        end = await store.command(ACME, one.id)
        assert end is not None
        assert end.state == sorted(FINAL)[answers.index(True)]
        await store.dispatched(ACME, one.id, 9, "plant-9", "b", START, durable=True)
        await store.running(ACME, one.id, START + 9)
        await store.requeue(ACME, one.id)
        assert await store.request_cancel(ACME, one.id) == end
        assert not await store.finish(ACME, one.id, finish(inline=b"x"))
        assert await store.command(ACME, one.id) == end
        assert await store.inline_result(ACME, one.id) is None

    async def test_only_a_final_state_ends_a_command(self, store: Store) -> None:
        one = command()
        await store.add_command(ACME, one)
        with pytest.raises(ValueError, match="not a final state"):
            await store.finish(ACME, one.id, finish(CommandState.RUNNING))

    async def test_a_wish_to_cancel_is_kept(self, store: Store) -> None:
        one = command()
        await store.add_command(ACME, one)

        assert await store.request_cancel(ACME, one.id) == msgspec.structs.replace(one, cancel_requested=True)
        assert await store.command(ACME, one.id) == msgspec.structs.replace(one, cancel_requested=True)
        assert await store.request_cancel(ACME, "cmd_nothing") is None

    async def test_open_commands_are_those_of_all_tenants_oldest_first(self, store: Store) -> None:
        made = [command(scope) for scope in (ACME, OTHER, ACME, OTHER)]
        for one in made:
            await store.add_command(Scope(one.tenant), one)
        await store.finish(ACME, made[0].id, finish())

        assert [one.id for one in await store.open_commands()] == [one.id for one in made[1:]]

    async def test_a_list_is_newest_first_and_goes_on_at_its_cursor(self, store: Store) -> None:
        made = [command() for _ in range(7)]
        for one in made:
            await store.add_command(ACME, one)
            await store.add_command(OTHER, command(OTHER))

        seen: list[str] = []
        cursor: str | None = None
        for size in (3, 3, 1):
            page = await store.commands(ACME, CommandFilter(), cursor, 3)
            assert len(page.items) == size
            seen += [one.id for one in page.items]
            cursor = page.next
        assert cursor is None
        assert seen == [one.id for one in reversed(made)]

    async def test_a_list_can_be_narrowed(self, store: Store) -> None:
        states = list(CommandState)
        made: dict[CommandState, Command] = {}
        for state in states:
            one = command(correlation_id=f"c-{state}", operation=f"op-{state}", agent=f"agent-{state}")
            made[state] = one
            await store.add_command(ACME, one)
            if state in FINAL:
                await store.finish(ACME, one.id, finish(state))
            elif state is not CommandState.QUEUED:
                await store.dispatched(ACME, one.id, 1, f"agent-{state}", "b", START, durable=True)
                if state is CommandState.RUNNING:
                    await store.running(ACME, one.id, START)
        await settled(store)

        async def listed(**wanted: Any) -> list[CommandState]:
            page = await store.commands(ACME, CommandFilter(**wanted), None, 100)
            return [one.state for one in page.items]

        for state in states:
            assert await listed(state=state) == [state]
            assert await listed(correlation_id=f"c-{state}") == [state]
            assert await listed(operation=f"op-{state}") == [state]
            assert await listed(agent=f"agent-{state}", state=state) == [state]
            assert await listed(correlation_id=f"c-{state}", dead_letters=True) == [state] * (state in DEAD_LETTERS)
        assert await listed(state=CommandState.FAILED, agent="agent-queued") == []
        assert set(await listed(dead_letters=True)) == DEAD_LETTERS
        assert await listed(since=made[states[-2]].created_at) == [states[-1], states[-2]]
        assert await listed(before=made[states[2]].created_at) == [states[1], states[0]]

    async def test_a_list_can_be_narrowed_to_one_error(self, store: Store) -> None:
        for code in ("timeout", "source_rejected", None):
            one = command()
            await store.add_command(ACME, one)
            error = CommandError("technical", code, "no") if code else None
            await store.finish(ACME, one.id, finish(CommandState.FAILED, error=error))

        page = await store.commands(ACME, CommandFilter(code="timeout", dead_letters=True), None, 10)

        assert [one.error.code for one in page.items] == ["timeout"]

    async def test_an_attempt_that_failed_leaves_its_error_and_a_step(self, store: Store) -> None:
        one = command()
        await store.add_command(ACME, one)
        await store.dispatched(ACME, one.id, 1, "plant-1", "j", START + 1, durable=True)
        error = CommandError("technical", "source_unavailable", "no route", "08001")
        failed = Step(one.id, START + 2, "attempt_failed", 1, "plant-1", "running", START + 1, "failed", error, "x")

        await store.requeue(ACME, one.id, step=failed, failures=3, not_before=START + 9)

        found = await store.command(ACME, one.id)
        assert found is not None
        assert (found.state, found.error, found.failures, found.not_before) == ("queued", error, 3, START + 9)
        assert await store.steps(ACME, one.id) == [failed]
        await store.dispatched(ACME, one.id, 2, "plant-1", "j", START + 9, durable=True)
        found = await store.command(ACME, one.id)
        assert found is not None
        assert (found.error, found.failures, found.not_before) == (None, 3, None)

    async def test_steps_are_told_oldest_first_and_go_with_their_command(self, store: Store) -> None:
        one = command()
        await store.add_command(ACME, one)
        late = Step(one.id, START + 5, "late_answer", 1, "plant-1", outcome="succeeded", outputs=b'{"a": 1.10}')
        early = Step(one.id, START + 4, "cancel_requested", detail="by k1")
        for step in (late, early, Step("cmd_nothing", START, "requeued")):
            await store.add_step(ACME, step)

        assert await store.steps(ACME, one.id) == [early, late]
        await store.finish(ACME, one.id, finish())
        assert await store.forget_before(START + 9, 10) == []
        assert await store.steps(ACME, one.id) == []
