"""What every store must do."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from cloud_broker.audit.trail import Act
from cloud_broker.identity.lineage import Lineage
from cloud_broker.store.agents import Agent, Arrival, Linked, NextCertificate
from cloud_broker.store.answers import Exists, IdempotencyConflict
from cloud_broker.store.base import Store
from cloud_broker.store.commands import Command, CommandError, CommandFilter, Finish, Resolution, RowSetInfo, Step
from cloud_broker.store.dead_letters import MAX_SKIPPED, ReplayRun, Skipped
from cloud_broker.store.tenants import ApiKey, Tenant, Token
from cloud_broker.tenants import Scope
from protocol.ids import new_id
from protocol.states import DEAD_LETTERS, FINAL, CommandState

ACME = Scope("acme")
OTHER = Scope("other")
START = 1_700_000_000.0

_milliseconds = itertools.count(int(START * 1000))


def command(scope: Scope = ACME, **changes: Any) -> Command:
    """Return a new command, later than the one before."""
    moment = next(_milliseconds)
    made = Command(
        id=new_id("cmd", moment, os.urandom),
        tenant=scope.tenant,
        agent="plant-1",
        group=None,
        operation="echo",
        connection="probe",
        effect="read",
        params=b'{"a": 1.10}',
        fingerprint="f1",
        created_at=moment / 1000,
        expires_at=moment / 1000 + 60,
    )
    return msgspec.structs.replace(made, **changes)


def finish(state: CommandState = CommandState.SUCCEEDED, at: float = START + 1, **rest: Any) -> Finish:
    """Return an end."""
    return Finish(state, at, **rest)


def agent(scope: Scope = ACME, name: str = "plant-1") -> Agent:
    """Return an agent that has just enrolled."""
    return Agent(scope.tenant, name, "plants", "0a", START + 1000, START)


def _arrival(
    name: str = "plant-1",
    change: Callable[[Agent], Agent] = lambda found: found,
    refusal: Callable[[Tenant, Agent], str | None] = lambda tenant, found: None,
    noted: Callable[[Agent, Agent], Act | None] = lambda before, after: None,
) -> Arrival:
    return Arrival("acme", name, START + 5, "1", "Linux", "j", 3, change, refusal, noted)


async def settled(store: Store) -> None:
    """Wait until all changes that nobody waited for are kept."""
    assert await store.healthy()


class StoreContract:
    """Subclass it with a fixture ``store``: open, with the tenants acme and other."""

    # --- tenants, keys, tokens --------------------------------------------------------------------

    async def test_a_tenant_is_created_once(self, store: Store) -> None:
        made = await store.create_tenant("new", START)

        assert await store.tenant("new") == made
        with pytest.raises(Exists):
            await store.create_tenant("new", START + 1)
        assert [tenant.name for tenant in await store.tenants()] == ["acme", "new", "other"]
        assert await store.tenant("nobody") is None

    async def test_a_tenant_is_suspended_and_resumed(self, store: Store) -> None:
        for state in ("suspended", "active"):
            assert await store.set_tenant_state("acme", state)
            tenant = await store.tenant("acme")
            assert tenant is not None
            assert tenant.state == state
        assert not await store.set_tenant_state("nobody", "active")

    async def test_a_key_is_found_by_its_hash_also_after_its_end(self, store: Store) -> None:
        key = ApiKey("k1", "acme", ("commands:read", "agents:read"), START, START + 5)
        admin = ApiKey("k2", None, ("*",), START + 1)
        await store.add_key(key, b"1" * 32)
        await store.add_key(admin, b"2" * 32)

        assert await store.key_by_hash(b"1" * 32) == key
        assert await store.key_by_hash(b"3" * 32) is None
        assert await store.keys("acme") == [key]
        assert await store.keys("other") == []
        assert await store.keys(None) == [key, admin]
        assert await store.revoke_key("k1", START + 2)
        assert await store.revoke_key("k1", START + 3)
        assert not await store.revoke_key("k9", START)
        await store.key_used("k1", START + 4)
        await settled(store)
        found = await store.key_by_hash(b"1" * 32)
        assert found == dataclasses.replace(key, revoked_at=START + 2, last_used_at=START + 4)

    async def test_a_token_enrols_one_agent_once(self, store: Store) -> None:
        token = Token("t1", "acme", "plant-1", "plants", START, START + 60)
        await store.add_token(token, b"1" * 32)
        assert await store.token_by_hash(b"1" * 32) == token
        assert await store.token_by_hash(b"2" * 32) is None

        spent = await asyncio.gather(
            *(store.spend_token("t1", agent(), f"r{number}", b"der", START + number) for number in range(8))
        )

        assert spent.count(True) == 1
        winner = spent.index(True)
        found = await store.token_by_hash(b"1" * 32)
        assert found == dataclasses.replace(token, spent_at=START + winner, spent_by=f"r{winner}", certificate=b"der")
        assert await store.agent(ACME, "plant-1") == agent()

    async def test_a_new_enrolment_replaces_the_agent(self, store: Store) -> None:
        await self._enrol(store, "t1", agent())
        await store.revoke_agent(ACME, "plant-1", START)
        await store.put_catalogue(ACME, "plant-1", b"{}", "d1")
        await self._enrol(store, "t2", dataclasses.replace(agent(), serial="0b"))

        assert await store.agent(ACME, "plant-1") == dataclasses.replace(agent(), serial="0b")

    # --- agents -----------------------------------------------------------------------------------

    async def test_what_was_last_known_of_an_agent_is_kept(self, store: Store) -> None:
        await self._enrol(store, "t1", agent())
        await store.agent_seen(ACME, "plant-1", START + 1, release="1", system="Linux", journal="b1", position=7)
        await store.agent_seen(ACME, "plant-1", START + 2)
        await store.put_catalogue(ACME, "plant-1", b'{"operations": []}', "d1")

        assert await store.agents(ACME) == [
            dataclasses.replace(
                agent(),
                last_seen_at=START + 2,
                release="1",
                system="Linux",
                journal="b1",
                position=7,
                catalogue=b'{"operations": []}',
                catalogue_digest="d1",
            )
        ]

    async def test_the_highest_position_of_each_journal_is_kept(self, store: Store) -> None:
        await self._enrol(store, "t1", agent())
        seen = [("j1", 5, 5), ("", 9, 9), ("j1", 4, 9), ("", 0, 9), ("j2", 3, 3), ("", 2, 3), ("j2", 4, 4)]
        for number, (journal, position, expected) in enumerate(seen):
            await store.agent_seen(ACME, "plant-1", START + number, journal=journal, position=position)
            await settled(store)
            found = await store.agent(ACME, "plant-1")
            assert found is not None
            assert found.position == expected

    async def test_an_agent_is_revoked_once(self, store: Store) -> None:
        await self._enrol(store, "t1", agent())

        assert await store.revoke_agent(ACME, "plant-1", START + 1)
        assert await store.revoke_agent(ACME, "plant-1", START + 2)
        assert not await store.revoke_agent(ACME, "plant-9", START)
        found = await store.agent(ACME, "plant-1")
        assert found is not None
        assert found.revoked_at == START + 1

    async def test_an_agent_is_drained_and_taken_back(self, store: Store) -> None:
        await self._enrol(store, "t1", agent())
        for at, expected in ((START, START), (START + 5, START), (None, None), (START + 9, START + 9)):
            assert await store.drain_agent(ACME, "plant-1", at, START, by="key:k1")
            found = await store.agent(ACME, "plant-1")
            assert found is not None
            assert found.drained_at == expected
        assert not await store.drain_agent(OTHER, "plant-1", START, START)
        noted = [record.action for record in await store.audit_after(ACME.tenant, 0, 100) if "drained" in record.action]
        assert noted == ["agent_drained", "agent_undrained", "agent_drained"]

    async def test_the_first_reason_of_a_revocation_stands(self, store: Store) -> None:
        await self._enrol(store, "t1", agent())
        for reason in ("stolen", "of age"):
            await store.revoke_agent(ACME, "plant-1", START, reason)
        found = await store.agent(ACME, "plant-1")
        assert found is not None
        assert found.revoked_reason == "stolen"

    async def test_who_an_agent_is_changes_in_one_step(self, store: Store) -> None:
        await self._enrol(store, "t1", agent())
        following = NextCertificate("0b", START + 2_000, "f1", "r1", b"\x00der")

        def change(known: Agent) -> Agent:
            return dataclasses.replace(
                known,
                next=following,
                trusts=("f1", "f2"),
                lineage=Lineage("t2", "t1", True, ("t0",)),
                issuer="f0",
                revoked_at=START,
                revoked_reason="two of it",
            )

        wanted = change(agent())
        assert await store.change_identity(ACME, "plant-1", change) == wanted
        assert await store.agent(ACME, "plant-1") == wanted
        assert await store.change_identity(ACME, "plant-9", change) is None

    async def test_changes_of_one_agent_at_once_see_each_other(self, store: Store) -> None:
        await self._enrol(store, "t1", agent())

        def one_more(known: Agent) -> Agent:
            return dataclasses.replace(known, trusts=(*known.trusts, "f"))

        await asyncio.gather(*(store.change_identity(ACME, "plant-1", one_more) for _ in range(50)))
        found = await store.agent(ACME, "plant-1")
        assert found is not None
        assert len(found.trusts) == 50

    async def test_what_a_change_refuses_is_not_kept(self, store: Store) -> None:
        await self._enrol(store, "t1", agent())

        def refuse(known: Agent) -> Agent:
            raise LookupError("no")

        with pytest.raises(LookupError):
            await store.change_identity(ACME, "plant-1", refuse)
        assert await store.agent(ACME, "plant-1") == agent()

    async def test_a_change_is_noted_if_there_is_something_to_note(self, store: Store) -> None:
        await self._enrol(store, "t1", agent())

        def noted(before: Agent, after: Agent) -> Act | None:
            return Act("acme", "agent:plant-1", "agent_renewed", "agent:plant-1", START) if after.next else None

        following = NextCertificate("0b", START + 2_000, "f1", "r1", b"der")
        await store.change_identity(ACME, "plant-1", lambda known: dataclasses.replace(known, next=following), noted)
        await store.change_identity(ACME, "plant-1", lambda known: known, noted)
        await store.change_identity(ACME, "plant-1", lambda known: dataclasses.replace(known, next=None), noted)
        records = await store.audit_after("acme", 0, 100)
        assert [one.action for one in records].count("agent_renewed") == 1

    async def test_a_greeting_is_kept_in_one_step(self, store: Store) -> None:
        await self._enrol(store, "t1", agent())
        await store.put_catalogue(ACME, "plant-1", b"{}", "d1")
        known = await store.agent(ACME, "plant-1")
        assert known is not None
        known = dataclasses.replace(known, catalogue=None)  # nobody asks for it there
        lineage = Lineage("t1", "", False, ())

        arrived = await store.arrived(_arrival(change=lambda found: dataclasses.replace(found, lineage=lineage)))

        assert arrived is not None
        assert (arrived.before, arrived.agent, arrived.refusal) == (
            known,
            dataclasses.replace(known, lineage=lineage),
            None,
        )
        assert arrived.head == await store.audit_head("acme")
        assert await store.agent(ACME, "plant-1") == dataclasses.replace(
            known,
            catalogue=b"{}",
            lineage=lineage,
            last_seen_at=START + 5,
            release="1",
            system="Linux",
            journal="j",
            position=3,
        )
        assert await store.arrived(_arrival(name="plant-9")) is None

    async def test_of_who_is_refused_only_the_change_is_kept(self, store: Store) -> None:
        await self._enrol(store, "t1", agent())
        act = Act("acme", "broker", "agent_cloned", "agent:plant-1", START)

        arrived = await store.arrived(
            _arrival(
                change=lambda found: dataclasses.replace(found, revoked_at=START),
                refusal=lambda tenant, found: f"{tenant.state}, {found.revoked_at}",
                noted=lambda before, after: act,
            )
        )

        assert arrived is not None
        assert arrived.refusal == f"active, {START}"
        assert await store.agent(ACME, "plant-1") == dataclasses.replace(agent(), revoked_at=START)
        assert [one.action for one in await store.audit_after("acme", 0, 100)][-1] == "agent_cloned"

    async def test_a_crowd_that_greets_is_told_each_its_own(self, store: Store) -> None:
        names = [f"plant-{number}" for number in range(150)]
        for number, name in enumerate(names):
            await store.add_agent(dataclasses.replace(agent(name=name), serial=f"{number:02x}"))

        def given(name: str) -> Lineage:
            return Lineage(f"of {name}", "", False, ())

        arrived = await asyncio.gather(
            *(
                store.arrived(_arrival(name, lambda found: dataclasses.replace(found, lineage=given(found.name))))
                for name in names
            )
        )
        assert [one.agent.serial for one in arrived if one is not None] == [f"{number:02x}" for number in range(150)]
        for name in names[::2]:
            store.has_kept(ACME, name, f"of {name}")
            store.has_kept(ACME, name, "an older one")
        await settled(store)
        for number, name in enumerate(names):
            found = await store.agent(ACME, name)
            assert found is not None
            assert found.lineage == dataclasses.replace(given(name), confirmed=number % 2 == 0)

    async def test_what_stands_of_an_agent_is_read_with_its_tenant(self, store: Store) -> None:
        await self._enrol(store, "t1", agent())
        await store.put_catalogue(ACME, "plant-1", b"{}", "d1")
        tenant, found = await store.standing(ACME, "plant-1")
        assert tenant == await store.tenant("acme")
        assert found == dataclasses.replace(agent(), catalogue_digest="d1")
        assert await store.standing(ACME, "plant-9") == (tenant, None)
        assert await store.standing(Scope("nobody"), "plant-1") == (None, None)

    async def test_who_may_not_be_linked_any_more_is_found_among_all(self, store: Store) -> None:
        following = NextCertificate("0b", START + 2_000, "f1", "r1", b"der")
        own = dataclasses.replace(agent(name="own"), serial="", own_pki=True)
        for one in (agent(), agent(name="revoked"), dataclasses.replace(agent(name="renewed"), next=following), own):
            await store.add_agent(one)
        await store.revoke_agent(ACME, "revoked", START)
        linked = [
            Linked("acme", "plant-1", "0a", False),
            Linked("acme", "plant-1", "0c", False),  # another certificate
            Linked("acme", "revoked", "0a", False),
            Linked("acme", "renewed", "0a", False),
            Linked("acme", "renewed", "0b", False),
            Linked("acme", "own", "any", True),
            Linked("acme", "own", "any", False),
            Linked("acme", "plant-1", "0a", True),
            Linked("acme", "nobody", "0a", False),
            Linked("nobody", "plant-1", "0a", False),
        ]
        assert await store.doubtful(linked) == [1, 2, 6, 7, 8, 9]
        assert await store.doubtful([]) == []
        await store.set_tenant_state("acme", "suspended")
        assert await store.doubtful(linked[:1]) == [0]

    async def test_an_agent_of_ones_own_pki_is_registered_once(self, store: Store) -> None:
        made = dataclasses.replace(agent(), serial="", not_after=0.0, own_pki=True)
        await store.add_agent(made)
        assert await store.agent(ACME, "plant-1") == made
        with pytest.raises(Exists):
            await store.add_agent(made)
        await store.add_agent(dataclasses.replace(made, tenant="other"))

    async def test_tokens_that_can_be_used_are_counted(self, store: Store) -> None:
        for number, expires_at in enumerate((START + 10, START + 20, START - 1)):
            token = Token(f"t{number}", "acme", "plant-1", None, START, expires_at)
            await store.add_token(token, bytes([number]) * 32)
        assert await store.open_tokens(START) == 2
        await store.spend_token("t0", agent(), "r", b"der", START)
        assert await store.open_tokens(START) == 1
        assert await store.open_tokens(START + 30) == 0

    # --- commands ---------------------------------------------------------------------------------

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
        await self._enrol(store, "t1", agent())
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

    async def _enrol(self, store: Store, token_id: str, wanted: Agent) -> None:
        token = Token(token_id, wanted.tenant, wanted.name, wanted.group, START, START + 60)
        await store.add_token(token, token_id.encode())
        assert await store.spend_token(token_id, wanted, "r1", b"der", START)
