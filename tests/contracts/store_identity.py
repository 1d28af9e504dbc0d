"""What every store must do for tenants, keys, tokens and agents."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable

import pytest

from cloud_broker.audit.trail import Act
from cloud_broker.identity.lineage import Lineage
from cloud_broker.store.agents import Agent, Arrival, Linked, NextCertificate
from cloud_broker.store.answers import Exists
from cloud_broker.store.base import Store
from cloud_broker.store.tenants import ApiKey, Tenant, Token
from cloud_broker.tenants import Scope
from tests.contracts.records import ACME, OTHER, START, agent, enrolled, settled


def _arrival(
    name: str = "plant-1",
    change: Callable[[Agent], Agent] = lambda found: found,
    refusal: Callable[[Tenant, Agent], str | None] = lambda tenant, found: None,
    noted: Callable[[Agent, Agent], Act | None] = lambda before, after: None,
) -> Arrival:
    return Arrival("acme", name, START + 5, "1", "Linux", "j", 3, change, refusal, noted)


class IdentityContract:
    """Tenants, keys, tokens, agents."""

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
        await enrolled(store, "t1", agent())
        await store.revoke_agent(ACME, "plant-1", START)
        await store.put_catalogue(ACME, "plant-1", b"{}", "d1")
        await enrolled(store, "t2", dataclasses.replace(agent(), serial="0b"))

        assert await store.agent(ACME, "plant-1") == dataclasses.replace(agent(), serial="0b")

    # --- agents -----------------------------------------------------------------------------------

    async def test_what_was_last_known_of_an_agent_is_kept(self, store: Store) -> None:
        await enrolled(store, "t1", agent())
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
        await enrolled(store, "t1", agent())
        seen = [("j1", 5, 5), ("", 9, 9), ("j1", 4, 9), ("", 0, 9), ("j2", 3, 3), ("", 2, 3), ("j2", 4, 4)]
        for number, (journal, position, expected) in enumerate(seen):
            await store.agent_seen(ACME, "plant-1", START + number, journal=journal, position=position)
            await settled(store)
            found = await store.agent(ACME, "plant-1")
            assert found is not None
            assert found.position == expected

    async def test_an_agent_is_revoked_once(self, store: Store) -> None:
        await enrolled(store, "t1", agent())

        assert await store.revoke_agent(ACME, "plant-1", START + 1)
        assert await store.revoke_agent(ACME, "plant-1", START + 2)
        assert not await store.revoke_agent(ACME, "plant-9", START)
        found = await store.agent(ACME, "plant-1")
        assert found is not None
        assert found.revoked_at == START + 1

    async def test_an_agent_is_drained_and_taken_back(self, store: Store) -> None:
        await enrolled(store, "t1", agent())
        for at, expected in ((START, START), (START + 5, START), (None, None), (START + 9, START + 9)):
            assert await store.drain_agent(ACME, "plant-1", at, START, by="key:k1")
            found = await store.agent(ACME, "plant-1")
            assert found is not None
            assert found.drained_at == expected
        assert not await store.drain_agent(OTHER, "plant-1", START, START)
        noted = [record.action for record in await store.audit_after(ACME.tenant, 0, 100) if "drained" in record.action]
        assert noted == ["agent_drained", "agent_undrained", "agent_drained"]

    async def test_the_first_reason_of_a_revocation_stands(self, store: Store) -> None:
        await enrolled(store, "t1", agent())
        for reason in ("stolen", "of age"):
            await store.revoke_agent(ACME, "plant-1", START, reason)
        found = await store.agent(ACME, "plant-1")
        assert found is not None
        assert found.revoked_reason == "stolen"

    async def test_who_an_agent_is_changes_in_one_step(self, store: Store) -> None:
        await enrolled(store, "t1", agent())
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
        await enrolled(store, "t1", agent())

        def one_more(known: Agent) -> Agent:
            return dataclasses.replace(known, trusts=(*known.trusts, "f"))

        await asyncio.gather(*(store.change_identity(ACME, "plant-1", one_more) for _ in range(50)))
        found = await store.agent(ACME, "plant-1")
        assert found is not None
        assert len(found.trusts) == 50

    async def test_what_a_change_refuses_is_not_kept(self, store: Store) -> None:
        await enrolled(store, "t1", agent())

        def refuse(known: Agent) -> Agent:
            raise LookupError("no")

        with pytest.raises(LookupError):
            await store.change_identity(ACME, "plant-1", refuse)
        assert await store.agent(ACME, "plant-1") == agent()

    async def test_a_change_is_noted_if_there_is_something_to_note(self, store: Store) -> None:
        await enrolled(store, "t1", agent())

        def noted(before: Agent, after: Agent) -> Act | None:
            return Act("acme", "agent:plant-1", "agent_renewed", "agent:plant-1", START) if after.next else None

        following = NextCertificate("0b", START + 2_000, "f1", "r1", b"der")
        await store.change_identity(ACME, "plant-1", lambda known: dataclasses.replace(known, next=following), noted)
        await store.change_identity(ACME, "plant-1", lambda known: known, noted)
        await store.change_identity(ACME, "plant-1", lambda known: dataclasses.replace(known, next=None), noted)
        records = await store.audit_after("acme", 0, 100)
        assert [one.action for one in records].count("agent_renewed") == 1

    async def test_a_greeting_is_kept_in_one_step(self, store: Store) -> None:
        await enrolled(store, "t1", agent())
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
        await enrolled(store, "t1", agent())
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
        await enrolled(store, "t1", agent())
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
