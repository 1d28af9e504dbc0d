"""Dangerous acts: one person asks, another decides, and it is done once."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
import unicodedata
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from cloud_broker.background import store_pause
from cloud_broker.callers.credentials import Credential
from cloud_broker.errors import (
    ApprovalNotFound,
    BrokerError,
    Conflict,
    Forbidden,
    IdempotencyKeyReused,
    SecondPersonNeeded,
    StoreUnavailable,
)
from cloud_broker.settings import ApprovalSettings
from cloud_broker.store.answers import IdempotencyConflict
from cloud_broker.store.approvals import Approval, ApprovalStore, State
from cloud_broker.tenants import Scope
from protocol.ids import new_id

# What a person who decides on an act needs: the same as for doing it.
SCOPES: Final = {
    "bulk_replay": "dead-letters:write",
    "resolve": "dead-letters:write",
    "revoke": "agents:write",
    "replace_agent": "agents:write",
    "mapping_approval": "mappings:approve",
}

PAGE: Final = 100  # approvals that are looked at together
DONE_S: Final = 10.0  # seconds that who approved waits to hear what came of it
OWNERS: Final = "Keys say whose they are: `outhaul-broker key create --owner NAME`; so do tokens of an OpenID provider."

log = logging.getLogger(__name__)

Doing = Callable[[Scope, Approval], Awaitable[str]]  # returns what came of it, in words; done twice is as done once


class Approvals:
    """
    All approvals of all tenants.

    An act is approved in the store before it is done, and done again after a crash in between: each act is one that
    may be done twice with the effect of once.
    """

    def __init__(self, store: ApprovalStore, settings: ApprovalSettings, acts: Mapping[str, Doing]) -> None:
        self._store = store
        self._required = frozenset(settings.required)
        self._expire_s = settings.expire
        self._acts = acts
        self._doing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Do what was approved before the broker ended."""
        for approval in await self._store.approvals_to_do():
            self._begin(approval)

    async def stop(self) -> None:
        """Leave what is under way to the next start."""
        for task in self._doing:
            task.cancel()
        await asyncio.gather(*self._doing, return_exceptions=True)

    def under_way(self) -> list[asyncio.Task[None]]:
        """Return what is being done now."""
        return list(self._doing)

    def wanted(self, act: str) -> bool:
        """Whether an act needs a second person here."""
        return act in self._required

    async def ask(
        self,
        scope: Scope,
        key: Credential,
        act: str,
        target: str,
        summary: str,
        request: Mapping[str, Any],
        idempotency_key: str | None = None,
    ) -> Approval:
        """
        Keep what somebody asks for until another decides; the same again is the same approval.

        Args:
            request: what JSON can hold; ``acts`` get it back with the approval.

        Raises:
            SecondPersonNeeded: the key does not say whose it is, so nobody could be another one.
            IdempotencyKeyReused: the key was used for another request.
        """
        if not _person(key.owner):
            raise SecondPersonNeeded(f"{act} needs two people, and the key {key.id} has no owner. {OWNERS}")
        now = time.time()
        encoded = msgspec.json.encode(request, order="sorted")
        asked = msgspec.json.encode((act, target, encoded, _person(key.owner)))
        approval = Approval(
            id=new_id("apr", int(now * 1000), os.urandom),
            tenant=scope.tenant,
            act=act,
            target=target,
            summary=summary,
            request=encoded,
            by=key.id,
            owner=key.owner,
            created_at=now,
            expires_at=now + self._expire_s,
            fingerprint=hashlib.sha256(asked).hexdigest(),
            idempotency_key=idempotency_key,
        )
        try:
            kept, _ = await self._store.add_approval(scope, approval)
        except IdempotencyConflict as exc:
            raise IdempotencyKeyReused(f"{exc}; use a new key for a new request") from exc
        return kept

    async def get(self, scope: Scope, approval_id: str) -> Approval:
        """Return one. Raises ``ApprovalNotFound``."""
        found = await self._store.approval(scope, approval_id)
        if found is None:
            raise ApprovalNotFound(f"There is no approval {approval_id!r}.")
        return found

    async def granted(self, scope: Scope, key: Credential, act: str, target: str) -> list[Approval]:
        """Return what was approved of what the person behind a key asked for, and has not expired yet."""
        now, cursor = time.time(), None
        found: list[Approval] = []
        while True:
            page = await self._store.approvals(scope, "done", cursor, PAGE)
            found += [
                one
                for one in page.items
                if (one.act, one.target) == (act, target)
                and one.expires_at > now
                and _person(one.owner) == _person(key.owner)
            ]
            # The newest come first, so what follows has expired too.
            if page.next is None or page.items[-1].expires_at <= now:
                return found
            cursor = page.next

    async def approve(self, scope: Scope, key: Credential, approval_id: str, note: str = "") -> Approval:
        """
        Let an act be done, and return it once it is.

        Raises:
            ApprovalNotFound, Forbidden, SecondPersonNeeded, Conflict
        """
        approval = await self.get(scope, approval_id)
        _check_scope(approval, key)
        _check_second(approval, key)
        await self._decide(scope, approval, key, "approved", note)
        # Nothing that can fail stands between the decision and its being done.
        task = self._begin(approval)
        # Who leaves now does not stop it.
        await asyncio.wait([task], timeout=DONE_S)
        return await self.get(scope, approval_id)

    async def refuse(self, scope: Scope, key: Credential, approval_id: str, note: str = "") -> Approval:
        """Decide that an act is not done. Raises as ``approve`` does."""
        approval = await self.get(scope, approval_id)
        _check_scope(approval, key)
        _check_second(approval, key)
        await self._decide(scope, approval, key, "refused", note)
        return await self.get(scope, approval_id)

    async def withdraw(self, scope: Scope, key: Credential, approval_id: str, note: str = "") -> Approval:
        """
        Take back what one asked for.

        Raises:
            ApprovalNotFound, Forbidden, Conflict
        """
        approval = await self.get(scope, approval_id)
        _check_scope(approval, key)
        if key.id != approval.by and _person(key.owner) != _person(approval.owner):
            raise Forbidden(f"{approval.owner} asked for it and takes it back; others refuse it.")
        await self._decide(scope, approval, key, "withdrawn", note)
        return await self.get(scope, approval_id)

    async def _decide(self, scope: Scope, approval: Approval, key: Credential, state: State, note: str) -> None:
        if not await self._store.decide_approval(scope, approval.id, state, key.id, key.owner, note, time.time()):
            now = await self.get(scope, approval.id)
            how = state_of(now, time.time())
            raise Conflict(f"The approval {approval.id} is {how}; only an open one is decided on.", state=how)

    # --- the work ---------------------------------------------------------------------------------

    def _begin(self, approval: Approval) -> asyncio.Task[None]:
        task = asyncio.create_task(self._do(approval), name=f"do {approval.act} of {approval.id}")
        self._doing.add(task)
        task.add_done_callback(self._doing.discard)
        return task

    async def _do(self, approval: Approval) -> None:
        scope = Scope(approval.tenant)
        while True:
            try:
                state, result = await self._outcome(scope, approval)
                await self._store.end_approval(scope, approval.id, state, result)
                return
            except StoreUnavailable:
                await store_pause()

    async def _outcome(self, scope: Scope, approval: Approval) -> tuple[Any, str]:
        try:
            return "done", await self._acts[approval.act](scope, approval)
        except StoreUnavailable:
            raise
        except BrokerError as exc:
            return "failed", exc.detail
        except Exception:  # whatever it was: who approved must hear that it was not done
            log.exception("%s can't be done", approval.id, extra={"event": "approval_failed", "approval": approval.id})
            return "failed", "the broker failed; its log says why"


def state_of(approval: Approval, now: float) -> State:
    """Return the state as it is now: time ends an open one."""
    return "expired" if approval.state == "open" and approval.expires_at <= now else approval.state


def _check_scope(approval: Approval, key: Credential) -> None:
    wanted = SCOPES[approval.act]
    if not key.may(wanted):
        raise Forbidden(f"The key {key.id} lacks the scope {wanted}; it has {', '.join(key.scopes)}.", scope=wanted)


def _check_second(approval: Approval, key: Credential) -> None:
    if key.id == approval.by or _person(key.owner) == _person(approval.owner):
        raise SecondPersonNeeded(f"{approval.owner} asked for it; another person decides. It can be withdrawn.")
    if not _person(key.owner):
        raise SecondPersonNeeded(f"The key {key.id} has no owner, so it shows no other person. {OWNERS}")


def _person(owner: str) -> str:
    """Return an owner without what makes one person look like two."""
    return " ".join(unicodedata.normalize("NFKC", owner).split()).casefold()
