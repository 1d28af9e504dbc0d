"""What every store must do."""

from __future__ import annotations

import pytest

from cloud_broker.store.base import Store
from cloud_broker.store.commands import CommandFilter, Resolution, Step
from protocol.states import CommandState
from tests.contracts.records import ACME, OTHER, START, agent, command, enrolled, finish, settled
from tests.contracts.store_commands import CommandContract
from tests.contracts.store_ends import EndContract
from tests.contracts.store_identity import IdentityContract


class StoreContract(IdentityContract, CommandContract, EndContract):
    """Subclass it with a fixture ``store``: open, with the tenants acme and other."""

    async def test_old_commands_are_forgotten_with_their_results_and_keys(self, store: Store) -> None:
        ends = [
            finish(at=START + 1, result="file"),
            finish(at=START + 2, result="inline", inline=b"x"),
            finish(at=START + 3, result="file"),
            finish(at=START + 100, result="file"),
        ]
        made = [command(idempotency_key=f"k{number}") for number in range(len(ends) + 1)]
        for one in made:
            await store.add_command(ACME, one)
        for one, end in zip(made, ends, strict=False):
            await store.finish(ACME, one.id, end)

        gone: list[tuple[str, str]] = []
        while part := await store.forget_before(START + 50, 1):
            gone += part

        assert gone == [("acme", made[0].id), ("acme", made[2].id)]
        left = (await store.commands(ACME, CommandFilter(), None, 10)).items
        assert [one.id for one in left] == [made[4].id, made[3].id]
        assert await store.inline_result(ACME, made[1].id) is None
        assert (await store.add_command(ACME, command(idempotency_key="k0", fingerprint="f2")))[1]

    async def test_no_tenant_sees_or_changes_anothers(self, store: Store) -> None:
        await enrolled(store, "t1", agent())
        mine = command(idempotency_key="k1", correlation_id="c1")
        await store.add_command(ACME, mine)
        ended = command(correlation_id="c1")
        await store.add_command(ACME, ended)
        await store.finish(ACME, ended.id, finish(CommandState.IN_DOUBT, result="inline", inline=b"x"))
        before = [await store.command(ACME, one.id) for one in (mine, ended)]

        assert await store.agent(OTHER, "plant-1") is None
        assert await store.agents(OTHER) == []
        assert not await store.revoke_agent(OTHER, "plant-1", START)
        await store.agent_seen(OTHER, "plant-1", START, release="9")
        await store.put_catalogue(OTHER, "plant-1", b"{}", "d")
        assert await store.change_identity(OTHER, "plant-1", lambda known: known) is None
        for one in (mine, ended):
            assert await store.command(OTHER, one.id) is None
            assert await store.inline_result(OTHER, one.id) is None
            assert await store.request_cancel(OTHER, one.id) is None
            assert not await store.finish(OTHER, one.id, finish(CommandState.FAILED, inline=b"y"))
            await store.dispatched(OTHER, one.id, 7, "evil", "b", START, durable=True)
            await store.dispatched(OTHER, one.id, 7, "evil", "b", START, durable=False)
            await store.running(OTHER, one.id, START)
            await store.requeue(OTHER, one.id)
            await store.requeue(OTHER, one.id, step=Step(one.id, START, "requeued"), failures=1)
            await store.add_step(OTHER, Step(one.id, START, "late_answer"))
            found = Resolution("happened", "key_2", START)
            assert not await store.resolve(OTHER, one.id, CommandState.SUCCEEDED, found, None)
            with pytest.raises(LookupError):
                await store.replay(OTHER, one.id, command(OTHER))
            assert await store.steps(OTHER, one.id) == []
        for wanted in (CommandFilter(), CommandFilter(correlation_id="c1"), CommandFilter(state=CommandState.QUEUED)):
            assert (await store.commands(OTHER, wanted, None, 10)).items == []
            assert (await store.commands(OTHER, wanted, mine.id, 10)).items == []
        await settled(store)

        assert [await store.command(ACME, one.id) for one in (mine, ended)] == before
        assert await store.agent(ACME, "plant-1") == agent()
        assert await store.inline_result(ACME, ended.id) == b"x"
        assert [await store.steps(ACME, one.id) for one in (mine, ended)] == [[], []]

    async def test_the_scope_decides_whose_a_command_is(self, store: Store) -> None:
        one = command(OTHER)
        await store.add_command(ACME, one)

        assert await store.command(OTHER, one.id) is None
        found = await store.command(ACME, one.id)
        assert found is not None
        assert found.tenant == "acme"

    async def test_a_closed_store_says_so(self, store: Store) -> None:
        await store.close()
        await store.close()
        with pytest.raises(RuntimeError):
            await store.command(ACME, "cmd_1")
        with pytest.raises(RuntimeError):
            await store.add_command(ACME, command())
