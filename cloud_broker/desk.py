"""
What agents say, acted on: who is there, what it holds, its rows and its outcomes.

The way back of the two; the way out is the router's.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from cloud_broker import catalogues, retries
from cloud_broker.audit.anchors import Anchors, head_of, stands
from cloud_broker.audit.notary import Notary
from cloud_broker.audit.trail import Act
from cloud_broker.blob_feed import BlobFeed
from cloud_broker.catalogues import CatalogueInvalid
from cloud_broker.errors import ResultGone, StoreUnavailable
from cloud_broker.identity.lineage import Verdict
from cloud_broker.identity.renewals import MAX_SYSTEM_CHARS, Renewals
from cloud_broker.late_answers import LateAnswers
from cloud_broker.lines import Entry, Line, forget
from cloud_broker.link.base import Peer
from cloud_broker.link.conversation import Conversation, Greeting, Refused
from cloud_broker.members import leased
from cloud_broker.results import LiveResult
from cloud_broker.router import Router, full_jitter
from cloud_broker.settlement import REPEATABLE, Decision, doubt, error_of, resume_at, settle
from cloud_broker.store.agents import Agent
from cloud_broker.store.base import Store
from cloud_broker.store.commands import CommandError, Finish, RowSetInfo, Step
from cloud_broker.tenants import Scope
from protocol import limits, proofs
from protocol.errors import RemoteProtocolError
from protocol.framing import Buffer
from protocol.messages import (
    RENEWAL,
    Accepted,
    Beat,
    BlobGone,
    Cancel,
    Chunk,
    Completed,
    Condition,
    Credit,
    Fetch,
    Held,
    Hello,
    Holding,
    Renew,
    Resume,
    RowSetBegins,
    Started,
    Trust,
    Trusts,
)
from protocol.plain_text import plain
from protocol.signing import SignatureMalformed
from protocol.states import CommandState

log = logging.getLogger(__name__)

Rows = tuple[tuple[RowSetInfo, ...], bytes | None] | ResultGone  # of a result, and all of them if kept inline
NO_ROWS: Final[Rows] = ((), None)
_OUTPUTS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
CREDIT_BYTES: Final = limits.SMALL_WINDOW_BYTES // 4  # credits are given in parts of this, not for each chunk
LINK_CREDIT_BYTES: Final = limits.LINK_WINDOW_BYTES // 4  # all parts together that an agent is kept waiting for
MAX_SHUT_S: Final = 8 * 86_400.0  # seconds; windows come again every week
MAX_MARK_CHARS: Final = 200  # of a journal; it is kept with each command that is sent
REST_S: Final = 5.0  # seconds until an agent that begins nothing now is asked again
NOT_BEGUN: Final = frozenset({"agent_stopping", "journal_unavailable", "paused"})  # refusals that say: offer it again


class AgentDesk:
    """
    The ``Desk`` of every conversation.

    Args:
        renewals: of the agents' certificates; without it this broker offers none.
        notary: notes who is there in the audit trail; a new one if there is none yet.
    """

    def __init__(
        self,
        store: Store,
        router: Router,
        now: Callable[[], float],
        renewals: Renewals | None = None,
        notary: Notary | None = None,
    ) -> None:
        self._store = store
        self._router = router
        self._now = now
        self._renewals = renewals
        self._late = LateAnswers(store, router, now)
        self._notary = notary or Notary(store.note_soon)
        self._anchors = Anchors(store, self._notary, now=now)

    def _line(self, link: Conversation) -> Line:
        return self._router.line_of(link.peer.tenant, link.peer.agent)

    async def greeting(self, link: Conversation, hello: Hello) -> Greeting:
        line = self._line(link)
        if link.number < line.greeted:
            # Held up on its way until the agent had dialled again: what it shows is out of date, and proves nothing.
            raise Refused("superseded", "another link of this agent took over")
        line.greeted = link.number
        if len(hello.journal) > MAX_MARK_CHARS:
            raise RemoteProtocolError(f"a journal's mark of {len(hello.journal)} characters")
        renews = RENEWAL in hello.features
        peer, features = link.peer, (RENEWAL,) if renews else ()
        if self._renewals is None:
            return await self._unkept(line, link, hello, ())
        try:
            greeted = await self._renewals.greet(peer, hello, renews=renews)
        except StoreUnavailable as exc:
            # It keeps the text it has, and comes with its next certificate again: nothing is lost.
            log.warning("a greeting was not kept: %s", exc, extra={"event": "note_lost", "agent": peer.agent})
            return await self._unkept(line, link, hello, features)
        if greeted.verdict is Verdict.TWO:
            log.error("%s/%s: %s", peer.tenant, peer.agent, greeted.refusal, extra=_of(peer, "agent_cloned"))
            self._router.revoke(Scope(peer.tenant), peer.agent, greeted.refusal or "")
        elif greeted.verdict is Verdict.PUT_BACK:
            log.warning(
                "%s/%s: this machine was put back to an earlier state, or there are two of it",
                peer.tenant,
                peer.agent,
                extra=_of(peer, "agent_put_back"),
            )
        if greeted.refusal is not None:
            raise Refused("revoked", greeted.refusal)
        if greeted.promoted:
            log.info("%s/%s: its next certificate is in force", peer.tenant, peer.agent, extra=_of(peer, "promoted"))
        self._learn(line, greeted.known)
        return Greeting(features, greeted.given, greeted.trust, stands(*greeted.head))

    async def _unkept(self, line: Line, link: Conversation, hello: Hello, features: tuple[str, ...]) -> Greeting:
        """Return what an agent is welcomed with whose greeting is not kept, or not yet."""
        scope = Scope(line.tenant)
        self._learn(line, await self._store.agent(scope, line.agent))
        release, system = hello.release[:MAX_SYSTEM_CHARS], hello.system[:MAX_SYSTEM_CHARS]
        await self._store.agent_seen(
            scope,
            line.agent,
            self._now(),
            release=release,
            system=system,
            journal=hello.journal,
            position=hello.position,
        )
        return Greeting(features, audit=await self._anchors.head(line.tenant))

    def _learn(self, line: Line, known: Agent | None) -> None:
        """Take over what the store knows of an agent."""
        if known is not None:
            self._router.join(line, known.group)
            line.drained = known.drained_at is not None
            line.digest = line.digest or known.catalogue_digest
            if not line.journal:
                line.journal, line.position = known.journal, known.position

    async def tell_audit(self) -> None:
        """Tell the agents where the audit trail stands."""
        await self._anchors.tell(self._router.links())

    def _note(self, link: Conversation, action: str, detail: Mapping[str, Any]) -> None:
        actor = f"agent:{link.peer.agent}"
        self._notary.note(Act(link.peer.tenant, actor, action, actor, self._now(), detail=detail))

    def tell_trust(self) -> None:
        """Tell every agent whom to trust from now on."""
        for link in self._router.links():
            if self._renewals is not None and RENEWAL in link.features and not link.peer.own_pki:
                link.say(Trust(self._renewals.bundle))

    async def renew(self, link: Conversation, message: Renew, csr: bytes) -> None:
        assert self._renewals is not None  # noqa: S101 - the session lets it through with the feature only
        answer, certificate = await self._renewals.renew(link.peer, message, csr)
        link.say(answer, certificate)
        if answer.refused:
            log.warning("no next certificate: %s", answer.refused, extra=_of(link.peer, "renewal_refused"))
        else:
            log.info("a next certificate was given", extra=_of(link.peer, "renewed"))

    async def trusts(self, link: Conversation, message: Trusts) -> None:
        assert self._renewals is not None  # noqa: S101 - the session lets it through with the feature only
        try:
            await self._renewals.trusts(link.peer, message.authorities)
        except StoreUnavailable as exc:
            # Its next greeting says so again.
            log.warning("whom an agent trusts was not kept: %s", exc, extra=_of(link.peer, "note_lost"))

    def joined(self, link: Conversation, hello: Hello) -> None:
        line = self._line(link)
        previous, line.link = line.link, link
        line.asked.clear()
        self._router.members.back(line)
        line.problems, line.shut, line.paused, line.resting = (), {}, {}, False
        line.strays.clear()
        for entry in line.flying.values():
            # It could say nothing while it was away, and tells in a moment what it holds.
            entry.hear()
        if previous is not None:
            previous.end("superseded", "another link of this agent took over")
        log.info(
            "agent connected",
            extra={
                "event": "agent_connected",
                "tenant": line.tenant,
                "agent": line.agent,
                "release": hello.release[:MAX_SYSTEM_CHARS],
                "address": link.peer.address,
            },
        )
        serial, release, address = link.peer.serial, hello.release[:MAX_SYSTEM_CHARS], link.peer.address
        self._note(link, "agent_linked", {"certificate": serial, "release": release, "address": address})
        self._journal(line, hello)
        self._anchors.heard(link.peer, hello.journal, hello.position, hello.head, put_back=line.put_back)
        line.kept_position = line.position

    def _journal(self, line: Line, hello: Hello) -> None:
        """See whether the agent's journal is still the one it was, with all that was in it."""
        position = hello.position
        line.put_back = line.journal == hello.journal and position < line.position
        if line.put_back:
            log.warning(
                "%s/%s: its journal was put back to an earlier state, such as by a restored machine: it had %d records "
                "and has %d; what was under way there and is not in it is in doubt",
                line.tenant,
                line.agent,
                line.position,
                position,
                extra={"event": "journal_put_back", "tenant": line.tenant, "agent": line.agent},
            )
        elif line.journal != hello.journal:
            line.journal, line.position = hello.journal, position
        else:
            line.position = position

    async def keep_positions(self) -> None:
        """Tell the store how far the journals of those who are there have come."""
        for link in self._router.links():
            line = self._line(link)
            if line.position > line.kept_position:
                line.kept_position = line.position
                await self._store.agent_seen(Scope(line.tenant), line.agent, self._now(), position=line.position)

    async def catalogue(self, link: Conversation, digest: str, catalogue: bytes) -> None:
        line = self._line(link)
        if line.catalogue is not None and line.digest == digest:
            return
        if hashlib.sha256(catalogue).hexdigest() != digest:
            raise RemoteProtocolError("the catalogue does not have the digest that came with it")
        try:
            # A large one takes a while.
            read = catalogues.known(catalogue) or await asyncio.to_thread(catalogues.read, catalogue)
        except CatalogueInvalid as exc:
            raise RemoteProtocolError(str(exc)) from exc
        if line.link is not link:
            return
        line.catalogue = read
        if line.digest != digest:
            line.digest = digest
            self._note(link, "catalogue_changed", {"digest": f"sha256:{digest}"})
            try:
                await self._store.put_catalogue(Scope(line.tenant), line.agent, catalogue, digest)
            except StoreUnavailable as exc:
                line.digest = ""
                log.warning("a catalogue was not kept: %s", exc, extra={"event": "note_lost", "agent": line.agent})
        await self._check_again(line)
        self._router.dispatch(line)

    async def _check_again(self, line: Line) -> None:
        """What waits for the group may be for a version that no member has any more."""
        if not self._router.stranded(line, self._router.group_of(line)):
            return
        try:
            # Those too that were not linked since this broker began.
            agents = await self._store.agents(Scope(line.tenant))
        except StoreUnavailable:
            return
        living = [agent for agent in agents if agent.group == line.group and agent.revoked_at is None]
        self._router.check_again(line, [self._router.know(agent) for agent in living])

    def beat(self, link: Conversation, message: Beat) -> None:
        if self._line(link).link is link and link.hello is not None:
            self._anchors.beat(link.peer, link.hello.journal, message.head)

    def holding(self, link: Conversation, holding: Holding) -> None:
        line = self._line(link)
        if line.link is not link:
            return
        line.uncredited = 0
        if self._renewals is not None and link.given:
            self._renewals.has_kept(link.peer, link.given)
        held_by_id = {held.id: held for held in holding.commands}
        strays = [held for held in holding.commands if not _counts(line.flying.get(held.id), held)]
        for entry in list(line.flying.values()):
            entry.uncredited = 0
            # Of one whose end is being written the agent may not forget anything yet: `Router.write_end` tells it.
            if entry.sent and not entry.finishing:
                self._settle(entry, link, held_by_id.get(entry.command.id))
        if line.put_back and line.link is link:
            # What was under way is settled: from here on the journal tells what comes after.
            line.put_back = False
            line.position = link.hello.position if link.hello else 0
        self._late.ask(link, line, strays)
        # Not at once: in the same breath the agent may say that it is not well.
        asyncio.get_running_loop().call_soon(self._router.dispatch, line)

    def condition(self, link: Conversation, message: Condition) -> None:
        line = self._line(link)
        if line.link is not link:
            return
        problems = tuple(problem[: limits.MAX_ERROR_CHARS] for problem in message.problems[: limits.MAX_PROBLEMS])
        if problems != line.problems:
            log.log(
                logging.WARNING if problems else logging.INFO,
                "%s/%s: %s",
                line.tenant,
                line.agent,
                "; ".join(problems) or "all is well again",
                extra={"event": "agent_condition", "tenant": line.tenant, "agent": line.agent},
            )
        now = time.monotonic()
        there = line.catalogue.connections if line.catalogue is not None else {}
        line.problems = problems
        line.shut = {name: now + min(seconds, MAX_SHUT_S) for name, seconds in message.shut.items() if name in there}
        line.paused = {
            name: plain(said)[: limits.MAX_ERROR_CHARS] for name, said in message.paused.items() if name in there
        }
        self._router.dispatch(line)

    def _settle(self, entry: Entry, link: Conversation, held: Held | None) -> None:
        command = entry.command
        result = entry.result if entry.result is not None and entry.result.reason is None else None
        have = result.taken if result is not None else 0
        journal = link.hello.journal if link.hello and not self._line(link).put_back else ""
        decision = settle(command, held, journal=journal, have=have)
        log.info(
            "command settled: %s",
            decision,
            extra={"event": "command_settled", "command": command.id, "decision": str(decision), "have": have},
        )
        if decision is Decision.RESUME:
            offset = resume_at(held, have) if held is not None else 0
            if result is None or offset != have:
                self._router.new_result(entry)
            entry.hear()
            link.say(Resume(command.id, command.epoch, offset=offset or 0, credit=link.window))
            if command.cancel_requested:
                link.say(Cancel(command.id, command.epoch))
        elif decision is Decision.AGAIN:
            forget(link, command.id, command.epoch)
            self._router.again(entry, "the attempt was lost with its link")
        else:
            self._router.end(entry, doubt(self._now(), held is not None))

    def accepted(self, link: Conversation, message: Accepted) -> None:
        """Nothing to note: ``dispatched`` says it."""

    def started(self, link: Conversation, message: Started) -> None:
        line = self._line(link)
        line.position = max(line.position, message.position)
        entry = line.flying_on(link, message.id)
        if entry is not None:
            entry.hear()
        if entry is not None and entry.command.state is not CommandState.RUNNING:
            self._router.began(entry)

    def row_set_begins(self, link: Conversation, message: RowSetBegins) -> None:
        entry = self._line(link).flying_on(link, message.id)
        if entry is not None and entry.result is not None:
            entry.hear()
            entry.result.begin(message)

    def chunk(self, link: Conversation, message: Chunk, data: Buffer) -> None:
        entry = self._line(link).flying_on(link, message.id)
        if entry is None or entry.result is None:
            link.say(Credit(message.id, len(data)))
            return
        entry.hear()
        if not entry.result.sets:
            raise RemoteProtocolError(f"{message.id}: rows before their row set")
        if message.crc32 is not None and zlib.crc32(data) != message.crc32:
            raise RemoteProtocolError(f"{message.id}: the bytes at {message.offset} do not fit their checksum")

        def stored(size: int, entry: Entry = entry) -> None:
            line = entry.line
            if line is None or line.link is not link:
                # A later link began with whole windows.
                return
            entry.uncredited += size
            line.uncredited += size
            if entry.uncredited >= CREDIT_BYTES or entry.finishing:
                self._grant(entry, link)
            elif line.uncredited >= LINK_CREDIT_BYTES:
                # Many results that each wait for a little would keep the whole link waiting.
                for other in line.flying.values():
                    self._grant(other, link)

        entry.result.append(data, message.rows, stored)

    def _grant(self, entry: Entry, link: Conversation) -> None:
        line = entry.line
        if entry.uncredited and link.open and line is not None and line.link is link:
            link.say(Credit(entry.command.id, entry.uncredited))
            line.uncredited -= entry.uncredited
        entry.uncredited = 0

    def fetch(self, link: Conversation, message: Fetch) -> None:
        entry = self._line(link).flying_on(link, message.id)
        blob = self._router.blobs.named_by(message.id)
        if entry is None or blob is None:
            link.say(BlobGone(message.id, message.epoch, "the broker has no blob for this command"))
            return
        if message.offset + message.bytes > blob.bytes:
            raise RemoteProtocolError(f"{message.id}: asks for more than the {blob.bytes} bytes of its blob")
        entry.hear()
        if entry.feed is None or entry.feed[0] is not link or entry.feed[1].epoch != message.epoch:
            path = self._router.blobs.path(entry.scope, blob.id)
            entry.feed = link, BlobFeed(message.id, message.epoch, path, link.wake)
            link.attach(message.id, entry.feed[1])
        entry.feed[1].ask(message.offset, message.bytes)

    def completed(self, link: Conversation, message: Completed, outputs: bytes) -> None:
        if outputs:
            try:
                outputs.decode()  # values are kept as they came, unread
                _OUTPUTS.decode(outputs)
            except (ValueError, RecursionError) as exc:
                raise RemoteProtocolError(f"{message.id}: outputs that are no JSON object: {exc}") from exc
        line = self._line(link)
        if line.link is not link:
            # The agent holds it still, and tells it on the link that took over.
            return
        line.position = max(line.position, message.position)
        asked = line.asked.get(message.id) == message.epoch
        if asked and self._router.members.answered(link, line, message) is None:
            return
        entry = line.flying.get(message.id)
        if entry is None or entry.finishing or message.id in line.strays:
            # Its command went on, or has its end, without it.
            self._late.told(link, line, message, outputs)
            return
        if message.touched and entry.command.state is CommandState.DISPATCHED:
            # That it began was left out, as it would have come with this.
            self._router.began(entry, over=True)
        self._spare(line, entry, message)
        if message.outcome == "expired" and leased(entry.command) and entry.command.expires_at > self._now():
            # Not its time was up, but the time that this agent had to begin it.
            forget(link, message.id, message.epoch)
            self._router.again(entry, f"{line.agent} could not begin it in time")
            return
        if message.error_code in NOT_BEGUN and not message.touched:
            forget(link, message.id, message.epoch)
            # One that turns commands away and did not say why would be sent the same ones again and again.
            if message.error_code != "paused" or entry.command.connection not in line.paused:
                self._rest(line, link)
            self._router.again(entry, message.error_message[: limits.MAX_ERROR_CHARS])
            return
        entry.finishing = True
        again = retries.after(entry.command, message, self._router.schedule, self._now(), full_jitter)
        if again is not None:
            failed = self._step(entry, message)
            self._router.background.spawn(
                self._try_again(entry, link, failed, again), f"let {message.id} be tried again", ending=True
            )
        elif entry.result is not None and entry.result.on_disk:
            self._router.background.spawn(
                self._complete_file(entry, link, message, outputs), f"complete {message.id}", ending=True
            )
        else:
            self._complete(entry, link, message, outputs)

    def _spare(self, line: Line, entry: Entry, message: Completed) -> None:
        """Note whether the system behind a connection answered."""
        connection = entry.command.connection
        breaker = line.breaker(connection)
        was_closed = breaker.closed
        now = time.monotonic()
        breaker.ended(message.id, message.error_code, now)
        line.failed(connection, now, again=message.outcome == "failed" and message.error_kind == "technical")
        if breaker.closed is not was_closed:
            log.log(
                logging.INFO if breaker.closed else logging.WARNING,
                "%s/%s: %s %s",
                line.tenant,
                line.agent,
                connection,
                "answers again"
                if breaker.closed
                else f"does not answer ({message.error_code}); it is spared for {breaker.guard.cool_down_s:g} s",
                extra={
                    "event": "breaker_closed" if breaker.closed else "breaker_opened",
                    "tenant": line.tenant,
                    "agent": line.agent,
                    "connection": connection,
                },
            )

    def _step(self, entry: Entry, message: Completed) -> Step:
        """Return what an attempt that did not end its command leaves behind."""
        command = entry.command
        return Step(
            command.id,
            self._now(),
            "attempt_failed",
            attempt=command.epoch,
            agent=command.agent or "",
            phase=str(command.state),
            started_at=command.dispatched_at,
            outcome=message.outcome,
            error=error_of(message),
        )

    def _rest(self, line: Line, link: Conversation) -> None:
        """Send nothing more for a while to an agent that begins nothing, such as one that is stopping."""

        async def ask_again() -> None:
            await asyncio.sleep(REST_S)
            if line.link is link:
                line.resting = False
                self._router.dispatch(line)

        if not line.resting:
            line.resting = True
            self._router.background.spawn(ask_again(), f"let {line.tenant}/{line.agent} rest")

    async def left(self, link: Conversation) -> None:
        line = self._line(link)
        self._note(link, "agent_unlinked", {})
        if line.link is link:
            line.link = None
            self._router.members.left(line)
            log.info(
                "agent disconnected",
                extra={"event": "agent_disconnected", "tenant": line.tenant, "agent": line.agent},
            )
            await self._store.agent_seen(Scope(line.tenant), line.agent, self._now(), position=line.position)

    async def _try_again(self, entry: Entry, link: Conversation, failed: Step, again: retries.Again) -> None:
        if entry.result is not None:
            entry.result.cut(failed.error.message if failed.error else "it failed")
            await entry.result.flushed()
        # Now: once the agent has forgotten it nothing can be granted, and the link would stay as much poorer.
        self._grant(entry, link)
        await self._router.retry(entry, failed, again)

    def _complete(self, entry: Entry, link: Conversation, message: Completed, outputs: bytes) -> None:
        """Keep the final state; no rows are on their way to a file."""
        result, rows = entry.result, NO_ROWS
        try:
            if result is not None and _to_be_whole(result, message):
                rows = result.complete_inline(message.row_sets)
            elif result is not None:
                result.cut(message.error_message or "the command did not succeed")
        except ResultGone as exc:
            rows = exc
        self._keep(entry, link, message, outputs, rows)

    async def _complete_file(self, entry: Entry, link: Conversation, message: Completed, outputs: bytes) -> None:
        """Keep the final state once all rows are on the disk."""
        result, rows = entry.result, NO_ROWS
        try:
            if result is not None and _to_be_whole(result, message):
                rows = await result.complete(message.row_sets)
            elif result is not None:
                result.cut(message.error_message or "the command did not succeed")
                await result.flushed()
        except ResultGone as exc:
            rows = exc
        self._keep(entry, link, message, outputs, rows)

    def _keep(self, entry: Entry, link: Conversation, message: Completed, outputs: bytes, rows: Rows) -> None:
        finish = self._finish(entry, message, outputs, rows)
        self._grant(entry, link)
        self._router.write_end(entry, finish)

    def _finish(self, entry: Entry, message: Completed, outputs: bytes, rows: Rows) -> Finish:
        """Return the final state that the agent's word and the rows that came amount to."""
        state, error = CommandState(message.outcome), error_of(message)
        if isinstance(rows, ResultGone):
            # The work was done, its rows are lost: that is a success only for nobody.
            state = CommandState.FAILED if entry.command.effect in REPEATABLE else CommandState.IN_DOUBT
            error = CommandError("technical", "result_lost", f"it ran, but its rows were lost: {rows.detail}")
        row_sets, inline = ((), None) if isinstance(rows, ResultGone) else rows
        kept = "none" if not row_sets else "file" if inline is None else "inline"
        return Finish(
            state=state,
            started_at=entry.command.started_at,
            finished_at=self._now(),
            outputs=outputs or None,
            row_sets=row_sets,
            error=error,
            warnings=tuple(warning[: limits.MAX_ERROR_CHARS] for warning in message.warnings[: limits.MAX_WARNINGS]),
            result=kept,  # type: ignore[arg-type]  # mypy does not see a literal through two conditions
            inline=inline if kept == "inline" else None,
            by=f"agent:{entry.command.agent}",
            agent=entry.command.agent or "",
            epoch=entry.command.epoch,
            journal=entry.command.journal,
            head=head_of(message),
            proof=_proof(message),
        )


def _to_be_whole(result: LiveResult, message: Completed) -> bool:
    """Whether the rows have to be those that the agent says it sent."""
    # One that we cut, so that the agent was asked to stop, was cancelled by nobody.
    return message.outcome == "succeeded" or (message.outcome == "cancelled" and result.reason is not None)


def _proof(message: Completed) -> str:
    """Return the agent's signature, which is for the caller to check, if it can be one."""
    if not message.proof:
        return ""
    try:
        proofs.check_shape(message.proof)
    except SignatureMalformed:
        return ""
    return message.proof


def _of(peer: Peer, event: str) -> dict[str, str]:
    return {"event": event, "tenant": peer.tenant, "agent": peer.agent, "address": peer.address}


def _counts(entry: Entry | None, held: Held) -> bool:
    """Whether what an agent holds is the attempt that its command is under way with."""
    return entry is not None and entry.sent and entry.command.epoch == held.epoch
