"""
Named places in both programs at which the lab may end them, or make a write fail.

Nothing of this stands in the programs: ``program.py`` puts it around their methods before it starts them.
A place is where a crash tells apart two things that must not be confused, such as "kept" and "told".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Program = Literal["agent", "worker", "broker"]


@dataclass(frozen=True, slots=True)
class Point:
    """
    One place.

    Attributes:
        name: program, what, and ``before`` or ``after``.
        target: ``module:Class.method`` or ``module:function``; of an abstract class, all that implement it.
        kind: class name of a message that must be among the arguments; "" for any.
        meaning: what is so when the program dies there.
        first: a point at which the agent must have died before, or this one is never passed; "" for none.
    """

    name: str
    target: str
    meaning: str
    kind: str = ""
    first: str = ""

    @property
    def program(self) -> Program:
        """Whose it is."""
        found: dict[str, Program] = {"agent": "agent", "worker": "worker", "broker": "broker"}
        return found[self.name.split(".")[0]]

    @property
    def after(self) -> bool:
        """Whether the method has returned."""
        return self.name.endswith(".after")


def _both(name: str, target: str, before: str, after: str, *, first: str = "") -> tuple[Point, ...]:
    return (
        Point(f"{name}.before", target, before, first=first),
        Point(f"{name}.after", target, after, first=first),
    )


POINTS: Final[tuple[Point, ...]] = (
    # --- the agent ---
    Point("agent.offered.before", "agent.dispatcher:Dispatcher.offer", "a command has come, nothing is known of it"),
    *_both(
        "agent.begin",
        "agent.journal.base:Journal.begin",
        "nothing is kept and nothing has begun",
        "it is kept that it begins, and it has not",
    ),
    Point("agent.asked.before", "agent.connectors.sessions:Session.say", "the driver is not asked yet", kind="Do"),
    Point("agent.asked.after", "agent.connectors.sessions:Session.say", "the driver is asked", kind="Do"),
    *_both(
        "agent.keep_rows",
        "agent.journal.base:Journal.keep_rows",
        "rows are here and not kept, and the source has not committed",
        "rows are kept and the source has not committed",
    ),
    *_both(
        "agent.end",
        "agent.journal.base:Journal.end",
        "it has happened, and only the source knows",
        "its end is kept and not told",
    ),
    Point("agent.told.before", "agent.results:Result.sent", "a part of what it has to say leaves"),
    Point("agent.forget.before", "agent.dispatcher:Dispatcher.forget", "the broker has it, and we do not know yet"),
    *_both(
        "agent.acknowledge",
        "agent.journal.base:Journal.acknowledge",
        "the broker has it, and the journal does not say so",
        "the journal was told that the broker has it",
    ),
    Point("agent.settle.before", "agent.connectors.sessions:DriverConnector.settle", "the source's own trace stays"),
    Point(
        "agent.greeted.after",
        "agent.dispatcher:Dispatcher.held",
        "what is held is about to be told",
        first="agent.asked.after",
    ),
    Point(
        "agent.resume.before", "agent.dispatcher:Dispatcher.resume", "the rest is asked for", first="agent.end.after"
    ),
    *_both(
        "agent.find",
        "agent.connectors.sessions:DriverConnector.find",
        "the source is to be asked what became of one",
        "the source has told, and it is not kept",
        first="agent.asked.after",
    ),
    # --- a driver's process ---
    Point("worker.run.before", "agent.connectors.worker:Worker._run", "the driver is asked and has not begun"),
    *_both(
        "worker.commit",
        "agent.connectors.odbc.driver:OdbcDriver._commit",
        "all is done and not committed",
        "it is committed, and nobody was told",
    ),
    *_both(
        "worker.appear",
        "agent.connectors.file.publish:appear",
        "the file is whole and has no name",
        "the file has its name, and nobody was told",
    ),
    *_both(
        "worker.post",
        "agent.connectors.soap.exchange:Exchange.post",
        "nothing was sent to the service",
        "the service has answered, and nobody was told",
    ),
    Point("worker.done.before", "agent.connectors.worker:Worker._tell", "it is over and not said", kind="Done"),
    # --- the broker ---
    *_both(
        "broker.add_command",
        "cloud_broker.store.base:Store.add_command",
        "a command has come and is not kept",
        "a command is kept, and its caller has no answer",
    ),
    *_both(
        "broker.dispatched",
        "cloud_broker.store.base:Store.dispatched",
        "it is to be sent, which is not kept",
        "it is kept that it is sent, and it is not",
    ),
    Point(
        "broker.sent.after", "cloud_broker.link.conversation:Conversation.say", "it is queued to be sent", kind="Run"
    ),
    *_both(
        "broker.running",
        "cloud_broker.store.base:Store.running",
        "it runs, which is not kept",
        "it is kept that it runs",
    ),
    Point("broker.chunk.before", "cloud_broker.desk:AgentDesk.chunk", "rows have come"),
    Point("broker.completed.before", "cloud_broker.desk:AgentDesk.completed", "an end has come and is not kept"),
    *_both(
        "broker.verified",
        "cloud_broker.results:LiveResult.complete",
        "the rows are not compared yet",
        "the rows are compared and on the disk, the end is not kept",
    ),
    *_both(
        "broker.finish",
        "cloud_broker.store.base:Store.finish",
        "an end is to be kept",
        "an end is kept, and neither agent nor caller know",
    ),
    Point("broker.forget.after", "cloud_broker.link.conversation:Conversation.say", "the agent may forget", kind="Ack"),
    Point("broker.cancel.after", "cloud_broker.store.base:Store.request_cancel", "a wish is kept and not passed on"),
    Point("broker.joined.before", "cloud_broker.desk:AgentDesk.joined", "an agent is back", first="agent.asked.after"),
    Point(
        "broker.holding.before",
        "cloud_broker.desk:AgentDesk.holding",
        "an agent has told what it holds",
        first="agent.asked.after",
    ),
    *_both(
        "broker.requeue",
        "cloud_broker.store.base:Store.requeue",
        "one is to be sent again, which is not kept",
        "it is kept that one is to be sent again",
        first="agent.asked.after",
    ),
)

# Where a disk is full or broken for a while: each raises OSError instead of doing its work.
WRITES: Final[tuple[Point, ...]] = (
    Point("agent.fsync.before", "os:fsync", "nothing is forced to the disk"),
    Point("agent.write.before", "os:write", "nothing is written"),
    Point("broker.fsync.before", "os:fsync", "a large result can't be forced to the disk"),
)

# Along the life of an agent's certificate.
RENEWAL: Final[tuple[Point, ...]] = (
    *_both(
        "agent.request",
        "agent.identity.certificates:pending",
        "it is to be asked for a certificate, and nothing is kept",
        "the key and the request are kept",
    ),
    Point("agent.renew.before", "agent.identity.renewal:Renewals._ask", "nobody was asked"),
    Point("agent.renewed.before", "agent.identity.renewal:Renewals.heard", "the broker answered, and nothing is kept"),
    *_both(
        "agent.beside",
        "agent.identity.succession:write_beside",
        "the new certificate is in memory only",
        "the new certificate is whole beside the old one",
    ),
    *_both(
        "agent.prove",
        "agent.identity.renewal:prove",
        "the new one is not proven",
        "the new one is proven, and not in force",
    ),
    *_both(
        "agent.switch",
        "agent.identity.succession:put_in_force",
        "the old one is in force still",
        "the new one is in force, and no link came with it",
    ),
    *_both(
        "agent.welcomed",
        "agent.identity.renewal:Renewals.welcomed",
        "the broker took it, and the agent has written nothing down",
        "all is written down and not said",
    ),
    *_both("agent.lineage", "agent.identity.lineage:Lineage.keep", "the lineage is given", "the lineage is kept"),
    *_both("agent.settled", "agent.identity.succession:settle", "the old one is there still", "the old one is gone"),
    *_both("agent.back", "agent.identity.succession:go_back", "the new one was refused", "the other takes its place"),
    *_both(
        "agent.recover",
        "agent.identity.recovery:recover",
        "the certificate has run out, and nobody was asked",
        "another is in force",
    ),
    *_both(
        "broker.renew",
        "cloud_broker.identity.renewals:Renewals.renew",
        "an agent asks, and nothing is kept",
        "the next certificate is kept, and the agent has no answer",
    ),
    Point(
        "broker.next.before",
        "cloud_broker.identity.renewals:Renewals._next",
        "a next one is not decided on",
    ),
    *_both(
        "broker.greet",
        "cloud_broker.identity.renewals:Renewals.greet",
        "an agent comes, perhaps with its next certificate",
        "it is in force, the lineage is kept, and the agent was not told",
    ),
    Point("broker.kept.before", "cloud_broker.identity.renewals:Renewals.has_kept", "the agent has it, unnoted"),
    *_both(
        "broker.recover",
        "cloud_broker.identity.renewals:Renewals.recover",
        "an agent comes with what has run out",
        "it has another, and was not told",
    ),
    *_both(
        "broker.identity",
        "cloud_broker.store.base:Store.change_identity",
        "something about an agent's certificates is to be kept",
        "something about an agent's certificates is kept",
    ),
)

# Waits that are minutes at a site; the lab has seconds. Set before anything else is imported, or looked up when used.
TIMERS: Final[dict[str, float]] = {
    "protocol.limits:BEAT_S": 0.4,
    "protocol.limits:SILENCE_S": 1.5,
    "protocol.limits:GREETING_S": 3.0,
    "agent.link.backoff:BASE_S": 0.1,
    "agent.link.backoff:CAP_S": 0.4,
    "agent.link.backoff:REFUSED_CAP_S": 0.4,
    "agent.link.backoff:FLOOR_CAP_S": 0.4,
    "agent.service.readiness:LOOK_S": 0.2,
    "agent.link.supervisor:CLOSE_S": 1.0,
    "agent.link.websocket:CLOSE_S": 0.5,
    "agent.link.websocket:DIAL_S": 3.0,
    "agent.connectors.sessions:OVERTIME_S": 1.0,
    "agent.connectors.sessions:STOP_S": 1.0,
    "agent.attempts:JOURNAL_RETRY_S": 0.2,
    "agent.inquiry:LONGEST_PAUSE_S": 0.5,
    "agent.identity.renewal:ANSWER_S": 3.0,
    "agent.identity.renewal:WORD_S": 0.5,
    "agent.identity.renewal:LEAST_PAUSE_S": 0.2,
    "agent.identity.validity:REST_S": 0.2,
    "agent.identity.exchange:ANSWER_S": 3.0,
    "agent.journal.writer:PROBE_S": 0.3,
    "agent.journal.writer:SOON_S": 0.3,
    "agent.spool:ROOM_S": 0.2,
    "cloud_broker.desk:REST_S": 0.3,
    "cloud_broker.members:BACK_S": 0.5,
    "cloud_broker.members:LEASE_S": 2.0,
    "cloud_broker.members:MARGIN_S": 3.5,
    "cloud_broker.members:ASK_AGAIN_S": 1.0,
    "cloud_broker.results:FULL_RETRY_S": 0.2,
    "cloud_broker.background:STORE_RETRY_S": 0.2,
}


def point(name: str) -> Point:
    """Return a point by name; raises ``KeyError``."""
    return {found.name: found for found in (*POINTS, *WRITES, *RENEWAL)}[name]
