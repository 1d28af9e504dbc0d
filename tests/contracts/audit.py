"""What every store must do for the audit trail."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

import pytest

from cloud_broker.audit import trail as audit
from cloud_broker.audit.trail import BEGINNING, BROKER, Act, AuditFilter, Record
from cloud_broker.audit.verify import of_store
from cloud_broker.store.answers import IdempotencyConflict
from cloud_broker.store.base import Store
from cloud_broker.store.commands import CommandError, CommandFilter, Resolution, RowSetInfo
from cloud_broker.store.dead_letters import ReplayRun
from cloud_broker.store.tenants import ApiKey, Token
from protocol.states import CommandState
from tests.contracts.records import ACME, OTHER, START, agent, command, finish, settled


async def records(store: Store, tenant: str = "acme") -> list[Record]:
    """A chain, whole."""
    return await store.audit_after(tenant, 0, 1_000_000)


async def noted(store: Store, tenant: str = "acme") -> list[tuple[str, str, str]]:
    """Who did what to what, without the chain's first record, which is of the tenant's creation."""
    return [(one.actor, one.action, one.target) for one in (await records(store, tenant))[1:]]


async def last(store: Store, tenant: str = "acme") -> tuple[Record, dict[str, Any]]:
    """The newest record, and its detail."""
    record = (await records(store, tenant))[-1]
    return record, audit_detail(record)


def audit_detail(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(record.detail)
    return found


class AuditContract:
    """Subclass it with a fixture ``store``: open, with the tenants acme and other."""

    async def test_a_tenants_life_is_noted(self, store: Store) -> None:
        await store.set_tenant_state("acme", "suspended", by="operator:alice")
        await store.set_tenant_state("acme", "active", by="operator:alice")
        await store.set_tenant_state("nobody", "active", by="operator:alice")
        first = (await records(store))[0]
        assert (first.number, first.action, first.target, first.previous) == (
            1,
            "tenant_created",
            "tenant:acme",
            BEGINNING,
        )
        assert await noted(store) == [
            ("operator:alice", "tenant_suspended", "tenant:acme"),
            ("operator:alice", "tenant_resumed", "tenant:acme"),
        ]
        assert await records(store, "nobody") == []

    async def test_a_keys_life_is_noted_and_an_administrators_in_the_brokers_own_chain(self, store: Store) -> None:
        await store.add_key(ApiKey("k1", "acme", ("commands:read",), START, START + 5), b"1" * 32, by="key:k9")
        await store.rotate_key("k1", ApiKey("k2", "acme", ("commands:read",), START), b"2" * 32, START + 9, by="key:k9")
        for _ in range(2):
            await store.revoke_key("k1", START + 2, by="key:k9")
        await store.revoke_key("k7", START + 2, by="key:k9")
        await store.add_key(ApiKey("k3", None, ("*",), START), b"3" * 32, by="operator:root")
        assert await noted(store) == [
            ("key:k9", "key_created", "key:k1"),
            ("key:k9", "key_rotated", "key:k1"),
            ("key:k9", "key_revoked", "key:k1"),
        ]
        own, detail = await last(store, BROKER)
        assert (own.number, own.actor, own.action, own.target) == (1, "operator:root", "key_created", "key:k3")
        assert detail == {"scopes": ["*"], "expires_at": None}

    async def test_an_agents_life_is_noted(self, store: Store) -> None:
        await store.add_token(Token("t1", "acme", "plant-1", "plants", START, START + 5), b"1" * 32, by="key:k1")
        for _ in range(2):
            await store.spend_token("t1", agent(), "r", b"der", START)
        for _ in range(2):
            await store.revoke_agent(ACME, "plant-1", START, "lost", by="key:k1")
        await store.revoke_agent(ACME, "plant-9", START, by="key:k1")
        assert await noted(store) == [
            ("key:k1", "token_created", "token:t1"),
            ("agent:plant-1", "token_spent", "token:t1"),
            ("agent:plant-1", "agent_enrolled", "agent:plant-1"),
            ("key:k1", "agent_revoked", "agent:plant-1"),
        ]
        assert (await last(store))[1] == {"reason": "lost"}

    async def test_a_commands_life_is_noted_with_digests_and_without_what_they_are_of(self, store: Store) -> None:
        one = command(key_id="k1", correlation_id="c1", params=b'{"iban":"DE02"}', signature="a.b.c")
        await store.add_command(ACME, one)
        await store.dispatched(ACME, one.id, 2, "plant-1", "mark", START, durable=True)
        for _ in range(2):
            await store.request_cancel(ACME, one.id, by="key:k2")
        end = finish(
            outputs=b'{"iban":"DE03"}',
            row_sets=(RowSetInfo((), 0, 8, 3), RowSetInfo((), 8, 8, 4)),
            proof="p.q.r",
            by="agent:plant-1",
            head=f"7:{'a' * 64}",
        )
        for _ in range(2):
            await store.finish(ACME, one.id, end)
        target = f"command:{one.id}"
        assert await noted(store) == [
            ("key:k1", "command_submitted", target),
            ("key:k2", "command_cancelled", target),
            ("agent:plant-1", "command_ended", target),
        ]
        chain = await records(store)
        assert {record.correlation_id for record in chain[1:]} == {"c1"}
        assert audit_detail(chain[1]) == {
            "agent": "plant-1",
            "operation": "echo",
            "effect": "read",
            "params": audit.digest(one.params),
            "signature": audit.digest("a.b.c"),
        }
        assert audit_detail(chain[3]) == {
            "outcome": "succeeded",
            "operation": "echo",
            "effect": "read",
            "agent": "plant-1",
            "attempt": 2,
            "journal": "mark",
            "head": f"7:{'a' * 64}",
            "outputs": audit.digest(b'{"iban":"DE03"}'),
            "rows": 7,
            "proof": audit.digest("p.q.r"),
        }
        assert "DE0" not in "".join(record.detail for record in chain)

    async def test_what_changes_nothing_is_not_noted(self, store: Store) -> None:
        one = command(idempotency_key="i1")
        await store.add_command(ACME, one)
        await store.add_command(ACME, command(idempotency_key="i1"))
        with pytest.raises(IdempotencyConflict):
            await store.add_command(ACME, command(idempotency_key="i1", fingerprint="f2"))
        await store.request_cancel(ACME, "cmd_nothing", by="key:k2")
        assert len(await noted(store)) == 1

    async def test_what_people_do_about_dead_letters_is_noted(self, store: Store) -> None:
        doubtful, failed = command(correlation_id="c1"), command(correlation_id="c2")
        for one, state in ((doubtful, CommandState.IN_DOUBT), (failed, CommandState.FAILED)):
            await store.add_command(ACME, one)
            await store.finish(ACME, one.id, finish(state, error=CommandError("technical", "link_lost", "gone")))
        found = Resolution("happened", "k1", START + 5, who="alice", note="order 4711 is there")
        for _ in range(2):
            await store.resolve(ACME, doubtful.id, CommandState.SUCCEEDED, found, None)
        run = ReplayRun("rpl_1", "acme", CommandFilter(operation="echo"), 1, 1.0, "k1", START)
        await store.add_replay_run(ACME, run)
        again = command(replay_of=failed.id, key_id="k1", correlation_id="c2")
        for _ in range(2):
            await store.replay(ACME, failed.id, again, "rpl_1")
        for _ in range(2):
            await store.end_replay_run(ACME, "rpl_1", "done", START + 9)
        assert (await noted(store))[4:] == [
            ("key:k1", "command_resolved", f"command:{doubtful.id}"),
            ("key:k1", "replays_begun", "replays:rpl_1"),
            ("key:k1", "command_replayed", f"command:{failed.id}"),
            ("key:k1", "command_submitted", f"command:{again.id}"),
            ("broker", "replays_ended", "replays:rpl_1"),
        ]

    async def test_nothing_is_removed_when_commands_are_forgotten(self, store: Store) -> None:
        one = command()
        await store.add_command(ACME, one)
        await store.finish(ACME, one.id, finish())
        before = await records(store)
        await store.forget_before(START + 10**6, 100)
        assert await store.command(ACME, one.id) is None
        assert await records(store) == before

    async def test_an_act_may_be_noted_by_itself_waited_for_or_not(self, store: Store) -> None:
        await store.note(Act("acme", "broker", "approval_asked", "approval:1", START))
        store.note_soon(Act("acme", "broker", "approval_given", "approval:1", START))
        await settled(store)
        assert [action for _, action, _ in await noted(store)] == ["approval_asked", "approval_given"]

    async def test_an_act_that_cannot_be_noted_takes_no_other_with_it(self, store: Store) -> None:
        wrong = store.note(Act("acme", "broker", "no such act", "", START))
        right = store.note(Act("acme", "broker", "approval_asked", "", START))
        found = await asyncio.gather(wrong, right, return_exceptions=True)
        assert isinstance(found[0], ValueError)
        assert [action for _, action, _ in await noted(store)] == ["approval_asked"]

    async def test_many_at_once_make_one_chain_each_without_a_gap(self, store: Store) -> None:
        await asyncio.gather(
            *(store.add_command(scope, command(scope)) for _ in range(200) for scope in (ACME, OTHER)),
        )
        chains = await of_store(store, {})
        assert [(one.tenant, one.records, one.misfit) for one in chains] == [("acme", 201, None), ("other", 201, None)]
        heads = {name: (number, digest) for name, number, digest in await store.audit_chains()}
        for one in chains:
            assert heads[one.tenant] == await store.audit_head(one.tenant) == (201, bytes.fromhex(one.head))
        assert await store.audit_head("nobody") == (0, BEGINNING)

    async def test_it_is_listed_newest_first_by_pages_and_filters(self, store: Store) -> None:
        for number in range(5):
            for action in ("approval_asked", "approval_given"):
                await store.note(Act("acme", "broker", action, f"approval:{number}", START + number))
        found, cursor = [], None
        while True:
            page = await store.audit_page("acme", AuditFilter(action="approval_given"), cursor, 2)
            found += [record.target for record in page.items]
            if (cursor := page.next) is None:
                break
        assert found == [f"approval:{number}" for number in (4, 3, 2, 1, 0)]
        for wanted, count in (
            (AuditFilter(target="approval:3"), 2),
            (AuditFilter(since=audit.time_text(START + 3)), 4),
            (AuditFilter("approval_asked", "approval:3", audit.time_text(START + 4)), 0),
            (AuditFilter(), 11),
        ):
            assert len((await store.audit_page("acme", wanted, None, 100)).items) == count
        assert (await store.audit_page("nobody", AuditFilter(), None, 100)).items == []

    async def test_a_tenant_sees_its_own_chain_only(self, store: Store) -> None:
        await store.add_command(OTHER, command(OTHER))
        assert {record.tenant for record in await records(store, "other")} == {"other"}
        assert await noted(store) == []
        mine = dataclasses.replace(AuditFilter(), action="command_submitted")
        assert (await store.audit_page("acme", mine, None, 100)).items == []
