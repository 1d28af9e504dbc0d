"""Acts that wait for a second person: look, approve, refuse, withdraw."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Final, Literal

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response

from cloud_broker.api.auth import caller
from cloud_broker.api.bodies import Body, answer, read
from cloud_broker.api.openapi import describe
from cloud_broker.api.services import services
from cloud_broker.api.views import ListView, time_or_none, time_text
from cloud_broker.approvals import SCOPES, state_of
from cloud_broker.callers.credentials import Credential
from cloud_broker.errors import (
    ApprovalNotFound,
    Conflict,
    ContentTypeUnsupported,
    RequestInvalid,
    SecondPersonNeeded,
    StoreUnavailable,
)
from cloud_broker.store.approvals import Approval, State
from cloud_broker.tenants import Scope

MAX_NOTE_CHARS: Final = 1_000
MAX_PAGE: Final = 200  # approvals in one part of a list
ID: Final = re.compile(r"apr_[0-9a-hjkmnp-tv-z]{26}")
DECIDERS: Final = tuple(dict.fromkeys(SCOPES.values()))

router = APIRouter(prefix="/v1/approvals", tags=["approvals"])
ApprovalId = Annotated[str, Path(description="Of the approval.", max_length=200)]


class Decision(Body, frozen=True):
    """
    Why a person decides so.

    Attributes:
        note: for those who ask later.
    """

    note: str = ""


class ApprovalLinks(msgspec.Struct, frozen=True, rename={"self_": "self"}):
    """Where it is decided."""

    self_: str
    approve: str
    refuse: str
    withdraw: str


class ApprovalView(msgspec.Struct, frozen=True):
    """
    An act that one person asked for and another decides on.

    Attributes:
        act: bulk_replay, resolve, revoke, replace_agent or mapping_approval.
        target: what it is done to, such as command:ID or agent:NAME; null for many.
        summary: the act in words.
        request: all that was asked for.
        state: open; approved while it is being done; done or failed; refused, withdrawn or expired.
        by: id of the key that asked; owner is the person behind it.
        decided_by: id of the key that decided; decided_owner is the person behind it.
        result: what came of it, in words.
    """

    id: str
    act: str
    target: str | None
    summary: str
    request: msgspec.Raw
    state: State
    by: str
    owner: str
    created_at: str
    expires_at: str
    decided_by: str | None
    decided_owner: str | None
    decided_at: str | None
    note: str | None
    result: str | None
    links: ApprovalLinks


DECISION_PROBLEMS: Final = [ApprovalNotFound, SecondPersonNeeded, Conflict, ContentTypeUnsupported, StoreUnavailable]


@router.get(
    "",
    **describe(
        "List approvals",
        scope="commands:read",
        answers={200: ("Newest first.", ListView)},
        items=ApprovalView,
        problems=[StoreUnavailable],
    ),
)
async def search(
    request: Request,
    state: Annotated[
        Literal["open", "approved", "done", "failed", "refused", "withdrawn", "expired"] | None,
        Query(description="Only those in this state."),
    ] = None,
    cursor: Annotated[str | None, Query(description="`next` of the part before.", max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Approvals in this part.")] = 50,
) -> Response:
    """List what waits for a second person, and what came of what did."""
    who = await caller(request, "commands:read")
    if cursor is not None and ID.fullmatch(cursor) is None:
        raise RequestInvalid(f"cursor: wants `next` of the part before as it stands, found {cursor!r}.")
    page = await services(request).store.approvals(who.scope, state, cursor, limit)
    return answer(ListView([approval_view(one) for one in page.items], page.next))


@router.get(
    "/{approval_id}",
    **describe(
        "Look at an approval",
        scope="commands:read",
        answers={200: ("As it is now.", ApprovalView)},
        problems=[ApprovalNotFound, StoreUnavailable],
    ),
)
async def look(request: Request, approval_id: ApprovalId) -> Response:
    """Return one approval."""
    who = await caller(request, "commands:read")
    return answer(approval_view(await services(request).approvals.get(who.scope, approval_id)))


@router.post(
    "/{approval_id}/approve",
    **describe(
        "Approve an act",
        scope=DECIDERS,
        answers={200: ("It is done, or failed: `result` says what came of it.", ApprovalView)},
        problems=DECISION_PROBLEMS,
        body=Decision,
        example={"note": "seen in the ERP as well"},
    ),
)
async def approve(request: Request, approval_id: ApprovalId) -> Response:
    """Let an act be done, as another person than the one who asked. It takes the scope that the act itself takes."""
    return await _decided(request, approval_id, services(request).approvals.approve)


@router.post(
    "/{approval_id}/refuse",
    **describe(
        "Refuse an act",
        scope=DECIDERS,
        answers={200: ("It is not done.", ApprovalView)},
        problems=DECISION_PROBLEMS,
        body=Decision,
        example={"note": "the order is there"},
    ),
)
async def refuse(request: Request, approval_id: ApprovalId) -> Response:
    """Decide that an act is not done, as another person than the one who asked."""
    return await _decided(request, approval_id, services(request).approvals.refuse)


@router.post(
    "/{approval_id}/withdraw",
    **describe(
        "Withdraw an act",
        scope=DECIDERS,
        answers={200: ("It is not done.", ApprovalView)},
        problems=DECISION_PROBLEMS,
        body=Decision,
        example={"note": "a mistake"},
    ),
)
async def withdraw(request: Request, approval_id: ApprovalId) -> Response:
    """Take back what one asked for oneself."""
    return await _decided(request, approval_id, services(request).approvals.withdraw)


def asked(approval: Approval) -> Response:
    """Return the answer to a request that waits for a second person now."""
    return answer(approval_view(approval), 202, {"Location": f"/v1/approvals/{approval.id}"})


def approval_view(approval: Approval) -> ApprovalView:
    """Return what a caller sees of an approval."""
    here = f"/v1/approvals/{approval.id}"
    return ApprovalView(
        id=approval.id,
        act=approval.act,
        target=approval.target or None,
        summary=approval.summary,
        request=msgspec.Raw(approval.request),
        state=state_of(approval, time.time()),
        by=approval.by,
        owner=approval.owner,
        created_at=time_text(approval.created_at),
        expires_at=time_text(approval.expires_at),
        decided_by=approval.decided_by or None,
        decided_owner=approval.decided_owner or None,
        decided_at=time_or_none(approval.decided_at),
        note=approval.note or None,
        result=approval.result or None,
        links=ApprovalLinks(here, f"{here}/approve", f"{here}/refuse", f"{here}/withdraw"),
    )


async def _decided(
    request: Request, approval_id: str, decide: Callable[[Scope, Credential, str, str], Awaitable[Approval]]
) -> Response:
    who = await caller(request, DECIDERS)
    note = (await read(request, Decision)).note
    if len(note) > MAX_NOTE_CHARS:
        raise RequestInvalid(f"note: wants at most {MAX_NOTE_CHARS} characters, found {len(note)}.")
    return answer(approval_view(await decide(who.scope, who.key, approval_id, note)))
