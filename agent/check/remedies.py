"""
What can be found wrong, and what to do about it: one table for ``outhaul-agent check`` and for its page of the manual.

Whoever finds something wrong gives its ``code``; where the remedy depends on what was found, also a ``fix`` of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from agent.connectors.base import Finding
from agent.link.failures import TROUBLES, in_general

NOT_TRIED: Final = "not-tried"


@dataclass(frozen=True, slots=True)
class Remedy:
    """
    Attributes:
        means: what is wrong, and how it comes about.
        fix: what to do, in one line; stands under what failed.
    """

    means: str
    fix: str


REMEDIES: Final[dict[str, Remedy]] = {
    # --- file
    "file.broken": Remedy(
        "The operator's file can't be read, or something in it is wrong. Each line of the message names the file, the "
        "line and the key, what was wanted there and what was found.",
        "correct the file where the message says, then check again",
    ),
    # --- account
    "account.other": Remedy(
        "This was not tried with the account that the service runs with, so folders, secrets and drivers may look "
        "different to the service.",
        "start the service and check again: then it tries everything itself",
    ),
    # --- state folder
    "state.missing": Remedy(
        "The folder `state_dir` is not there, or is no folder. Enrolment makes it.",
        "correct `state_dir`, or enrol this agent: outhaul-agent enroll --token TOKEN",
    ),
    "state.unwritable": Remedy(
        "The account that runs the agent can't write into `state_dir`, or what was written there could not be made "
        "durable. Without it no command is accepted. Often the folder belongs to another account: the agent was once "
        "started by hand, as an administrator.",
        "give the folder and all in it to the agent's account, and see that its disk can be written",
    ),
    "state.rights": Remedy(
        "Others than the agent's account and administrators may read or change `state_dir`, where the agent's key, its "
        "journal and the encrypted secrets are.",
        "let only the agent's account and administrators into the folder",
    ),
    "state.space": Remedy(
        "There is little room on the disk of `state_dir`. When it is full, the agent refuses new commands, and goes "
        "on by itself once there is room.",
        "make room on that disk, or move state_dir to a larger one",
    ),
    "state.unsafe": Remedy(
        "`state_dir` is on a file system that forgets at a restart, or on another machine's disk. The journal, which "
        "keeps a command from running twice, has to survive a power cut.",
        "put state_dir on a local disk of this machine",
    ),
    # --- clock
    "clock.wrong": Remedy(
        "This machine's clock is certainly wrong: it is earlier than something that has already happened. "
        "Certificates and signatures are judged by it.",
        "set the clock, and let the system keep it: timedatectl set-ntp true, or on Windows: w32tm /resync",
    ),
    "clock.unkept": Remedy(
        "The system does not set its clock by the network. It may be right today and wrong in a year. In a container "
        "or a virtual machine the host may do it instead.",
        "let the system keep it: timedatectl set-ntp true, or on Windows start the service w32time",
    ),
    # --- secrets
    "secrets.store": Remedy(
        "The store of secrets can't be opened by this account: another account or another machine made it, its master "
        "key is gone, or there is no keyring.",
        "run this as the agent's account; if the store is lost, set each secret again and enrol again",
    ),
    "secrets.missing": Remedy(
        "The file names a secret with `{secret:NAME}`, and the store has no value for it.",
        "outhaul-agent secret set NAME",
    ),
    # --- identity
    "identity.none": Remedy(
        "This agent has no certificate yet, so the broker does not know it.",
        "outhaul-agent enroll --token TOKEN",
    ),
    "identity.unusable": Remedy(
        "The certificate, its key or the authorities can't be used: a file is damaged, missing, or not this account's "
        "to read.",
        "see the message; if nothing helps, enrol again with a new token: outhaul-agent enroll --token TOKEN",
    ),
    "identity.over": Remedy(
        "The certificate has run out; agents renew by themselves, so this one was stopped or without a broker for "
        "long, or its clock is wrong.",
        "start the agent: it renews by itself where the broker still lets it, else enrol again",
    ),
    "identity.keys": Remedy(
        "The agent's own keys, with which it signs results and opens sealed commands, can't be opened.",
        "see the message; run this as the agent's account",
    ),
    # --- connections
    "connection.open": Remedy(
        "The local system can't be reached, or refuses us, in a way that has no entry of its own.",
        "see the message",
    ),
    "connection.crash": Remedy(
        "The driver's own process died or gave no answer in time. Nothing else of the agent is touched by that. It is "
        "nearly always the vendor's driver.",
        "update the driver; if it stays, send `outhaul-agent diagnostics` with a report",
    ),
    "connection.library": Remedy(
        "A library that this kind of connection needs is not on the machine, such as unixODBC.",
        "install the library that the message names",
    ),
    "odbc.driver": Remedy(
        "The ODBC driver in the connection string is not installed, or can't be loaded.",
        "install the driver for this machine's bitness, or name one that is installed",
    ),
    "odbc.bitness": Remedy(
        "The ODBC driver, or the DSN, is for programs of another bitness than this agent: 32-bit drivers can't be "
        "loaded by 64-bit programs, nor the other way round.",
        "install the vendor's driver of the agent's bitness (64-bit is what most need)",
    ),
    "odbc.dsn": Remedy(
        "This account sees no data source of that name. A *user* DSN is seen by the user who made it only, never by "
        "a service; a 32-bit DSN by 32-bit programs only.",
        "make a *system* DSN of the agent's bitness, or write Driver=… and Server=… into connection_string",
    ),
    "odbc.account": Remedy(
        "The database refuses the account or its password.",
        "correct Uid in connection_string, or the password: outhaul-agent secret set NAME",
    ),
    "odbc.database": Remedy(
        "The server answers, and has no database of that name, or does not show it to this account.",
        "correct the database's name in connection_string, or grant the account access to it",
    ),
    "odbc.tls": Remedy(
        "Driver and server don't agree on encryption, or the server's certificate is not trusted.",
        "set what the driver's manual says of encryption and the authority in connection_string",
    ),
    "odbc.unreachable": Remedy(
        "Nothing answers at the server's address and port, or not in time.",
        "correct server and port in connection_string; see that the database runs and no firewall is between",
    ),
    "odbc.ledger": Remedy(
        'The table behind `effect = "once"` is missing, different from what it must be, or not ours to write.',
        "make the table and grant the rights as `outhaul-agent ledger sql` prints them",
    ),
    "odbc.code-page": Remedy(
        "Letters are lost between agent and database, such as Ł or €: the driver's, or the database's, code page "
        "can't keep them.",
        "use the driver's Unicode version, or set the connection's character set to UTF-8",
    ),
    "folder.missing": Remedy(
        "The folder is not there: a wrong name, or a share that is not mounted. On Windows a service sees no mapped "
        "drive letters: write \\\\server\\share.",
        "correct `root`, or mount the share for the agent's account",
    ),
    "folder.rights": Remedy(
        "The agent's account may not read, create, rename or remove files there; or the file system is read-only.",
        "give the agent's account the right to read, create, rename and remove files there",
    ),
    "folder.full": Remedy(
        "The disk of the folder is full or nearly so, or the account's quota is used up.",
        "make room on that disk, or raise the quota",
    ),
    "folder.name": Remedy(
        "The name in `archive` can't be that of a folder within `root`.",
        "correct `archive`: one plain name",
    ),
    "folder.unusable": Remedy(
        "The folder can't be used as it must be: written durably, read back, and a name claimed without replacing.",
        "see the message; a local disk or an SMB or NFS share does all that",
    ),
    "soap.wsdl": Remedy(
        "The WSDL can't be read: the file or address is wrong, the document is none, or imports what it may not.",
        "correct `wsdl`; documents that it imports must stand beside it",
    ),
    "soap.files": Remedy(
        "A file with a certificate, its key or an authority can't be used.",
        "correct `ca` or `auth`: PEM files that the agent's account may read and that belong together",
    ),
    "soap.tls": Remedy(
        "The service's certificate is not trusted by this machine.",
        "name the PEM file of the service's authority as `ca` of the connection",
    ),
    "soap.account": Remedy(
        "The service does not let this account, or this client certificate, in.",
        "correct `auth`, or the password: outhaul-agent secret set NAME",
    ),
    "soap.unreachable": Remedy(
        "Nothing answers at the service's endpoint, or not in time.",
        "start the service, or correct `endpoint`; see that no firewall is between",
    ),
    # --- operations
    "operation.procedure-missing": Remedy(
        "The database has no procedure of that name that this account may run.",
        "correct the name and its schema, or grant the account the right to run it",
    ),
    "operation.parameters": Remedy(
        "The operation in the file and the database don't agree: other parameters, in another order or direction, or "
        "something that this database can't do.",
        "make both agree, as the message says",
    ),
    "operation.statement": Remedy(
        "The database does not understand the statement: a table or column that is not there, or a slip in the SQL.",
        "correct `sql` in the file, or the database",
    ),
    "operation.rights": Remedy(
        "The database understands the operation, and this account may not do it.",
        "grant the account what the message names",
    ),
    "operation.pin": Remedy(
        "The procedure's parameters are not those that `pin` holds it to: somebody changed it. It is refused until "
        "somebody has looked.",
        "look at what changed; then set the pin that `outhaul-agent check OPERATION` shows",
    ),
    "operation.columns": Remedy(
        "`columns` lists what the source does not return.",
        "correct `columns`, or what the source returns",
    ),
    "operation.once": Remedy(
        'With this operation and this database `effect = "once"` can\'t be kept, so it is refused.',
        "change the operation, or its effect, as the message says",
    ),
    "operation.kind": Remedy(
        "The operation is of a kind that its connection can't do.",
        "use `drop` or `pick` on a file connection, `sql` or `procedure` on odbc, `call` on soap",
    ),
    "operation.encoding": Remedy(
        "There is no such text encoding.",
        "name one of Python's text codecs, such as utf-8, cp1252 or cp037",
    ),
    "operation.name": Remedy(
        "A file name or pattern can't be used: it holds a folder, or characters that some file system refuses.",
        "correct the name in `drop`, or the pattern in `pick`",
    ),
    "soap.operation": Remedy(
        "The WSDL has no such operation, service or port, or its answer has not what `columns` lists or `rows` names.",
        "correct call, service, port, columns or rows; the message lists what the WSDL has",
    ),
    # --- network
    "network.proxy-setting": Remedy(
        "The proxy that the file or the system names can't be used: its URL can't be read, or its password is missing.",
        "correct link.proxy, or set the secret that it names",
    ),
    "network.unreachable": Remedy(
        "The broker can't be reached, or refused this agent; the message says how far it came.",
        "see the message; the agent itself tries again by itself",
    ),
}


REMEDIES.update(
    {f"network.{name}": Remedy(in_general(found.means), in_general(found.fix)) for name, found in TROUBLES.items()}
)


def not_tried(subject: str, first: str, *, stage: str = "") -> Finding:
    """Return that ``subject`` was left out because ``first`` failed, on which it depends."""
    return Finding(subject, None, f"not tried: {first} failed first", code=NOT_TRIED, stage=stage)


def with_remedy(finding: Finding) -> Finding:
    """Return a finding with what to do about it, if there is something."""
    if finding.ok is True or finding.fix or finding.code not in REMEDIES:
        return finding
    return msgspec.structs.replace(finding, fix=REMEDIES[finding.code].fix)
