"""``outhaul keygen``, ``--sign-with`` and ``outhaul commands verify``: what a caller signs, and what an agent did."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import click

from cloud_broker.client import arguments, known_agents
from cloud_broker.client.call import tell
from cloud_broker.client.connect import DONE, FAILED, Duration, as_json, connected
from cloud_broker.client.errors import WordsError
from cloud_broker.client.output import write
from protocol.signing import fingerprint, sealed_digest

if TYPE_CHECKING:
    from cloud_broker.client.api import Outhaul
    from cloud_broker.client.proofs import Sent, Verified
    from cloud_broker.client.signing import Signer, Work

P = ParamSpec("P")
R = TypeVar("R")

PASSPHRASE: Final = "OUTHAUL_SIGN_PASSPHRASE"  # noqa: S105 - the name of a variable, not a passphrase

sign_with = click.option(
    "--sign-with",
    "sign_with",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="KEYFILE",
    help="Sign it, for operations that want that; what `outhaul keygen` made.",
)
signer_name = click.option("--signer", "signer_name", metavar="NAME", help="Whose key it is, in place of its own word.")
valid = click.option(
    "--valid", "valid_s", type=Duration(), metavar="TIME", help="How long what was signed may run; as --ttl, or 1h."
)


def signature_file(what: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return the option that names a file with a signature."""
    return click.option(
        "--signature",
        "signature_file",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help=what,
    )


@dataclass(frozen=True, slots=True)
class Signing:
    """
    What the words of a call say about signing.

    Attributes:
        name: in place of the one in the file.
        keep: where the signature is kept.
    """

    key_file: Path | None
    name: str | None
    valid_s: float | None
    keep: Path | None = None

    def signer(self) -> Signer | None:
        """
        Return who signs, with the passphrase asked for; ``None`` if nothing is to be signed.

        Raises:
            WordsError: the words do not fit together, or the file can't be used.
        """
        if self.key_file is None:
            for word, given in (("--signer", self.name), ("--valid", self.valid_s), ("--signature", self.keep)):
                if given is not None:
                    raise WordsError(f"{word} goes with --sign-with KEYFILE")
            return None
        # Deferred: what signs is large, and most calls sign nothing.
        from cloud_broker.client.signing import Signer

        return Signer.load(self.key_file, lambda: _passphrase(f"Passphrase of {self.key_file}"), self.name)

    def signature(
        self, client: Outhaul, idempotency_key: str, ttl_s: float | None, *call: Any, **more: Any
    ) -> str | None:
        """
        Return the signature of a call, kept if that was asked for; ``None`` if nothing is to be signed.

        Args:
            call: as of ``work_of``, and ``more``.

        Raises:
            WordsError: as of ``signer`` and ``work_of``; or there is a file where the signature is to be kept.
            TenantChanged: as of ``work_of``.
        """
        signer = self.signer()
        if signer is None:
            return None
        # Deferred: as above.
        from cloud_broker.client.signing import DEFAULT_VALID_S, keep_signature, work_of

        wanted = work_of(client, *call, **more)
        tell_tenant(wanted)
        signature = signer.sign(wanted, idempotency_key, self.valid_s or ttl_s or DEFAULT_VALID_S)
        if self.keep is not None:
            keep_signature(self.keep, signature)
        return signature


def tell_tenant(work: Work) -> None:
    """Tell who signs for a tenant that only the broker names."""
    if work.tenant_kept is not None:
        tell(
            f"signed for the tenant {work.tenant}, as only the broker says that it is yours; kept in "
            f"{work.tenant_kept} and compared from now on. Name it with --tenant, to be sure"
        )


@click.command()
@click.argument("name")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Of the key; NAME.key if left out."
)
@click.option("--no-passphrase", is_flag=True, help="Do not encrypt it: for programs, in a place that is safe.")
@as_json
def keygen(name: str, out: Path | None, no_passphrase: bool, as_json: bool) -> int:
    """Make a key that signs commands as the caller NAME, and print its line for the operator's file.

    The passphrase is asked for, or read from standard input. The key stays here; whoever has it signs as NAME.
    """
    # Deferred: see cli.py.
    from cloud_broker.client.signing import Signer

    signer, path = Signer.make(name), out or Path(f"{name}.key")
    if path.exists():
        raise WordsError(f"{path} is there already, and a key is never written over: name another file with --out")
    signer.keep(path, None if no_passphrase else _passphrase("Passphrase for the new key", new=True))
    if as_json:
        facts = {
            "name": name,
            "file": str(path),
            "public": signer.public,
            "fingerprint": fingerprint(signer.public),
            "line": signer.line,
        }
        return write(json.dumps(facts, indent=2).encode())
    click.echo(f"[policy.trusted_signers]\n{signer.line}")
    tell(f"kept in {path}; its fingerprint is {fingerprint(signer.public)}")
    tell("the operator of each agent puts these two lines into its file; compare the fingerprint by voice")
    return DONE


@click.command()
@click.argument("command_id", metavar="ID")
@click.option(
    "--agent-keys", metavar="KEYS", help="Take no other keys of the agent than these (outhaul-agent identity)."
)
@click.option("--no-rows", is_flag=True, help="Do not read the rows; only their number is compared then.")
@signature_file("It must be the end of what you signed: `outhaul call --signature FILE` kept it.")
@click.option("--params", metavar="JSON|@FILE|-", help="It must have run with these parameters.")
@click.option(
    "--seal-key",
    "key_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="It must be the end of this sealed call: `outhaul call --seal-key FILE` kept it.",
)
@as_json
@connected
def verify(
    client: Outhaul,
    command_id: str,
    agent_keys: str | None,
    no_rows: bool,
    signature_file: Path | None,
    params: str | None,
    key_file: Path | None,
    as_json: bool,
) -> int:
    """Check with the agent's own signature that a command ended as the broker tells, rows included.

    The agent's keys are kept at the first sight and compared ever after. That it is the end of your own request is
    sure only with --signature, --params or --seal-key: without them the broker alone says what you sent.
    """
    sent = _sent(signature_file, params, key_file)
    found = client.verify(command_id, agent_key=_agent_key(client, command_id, agent_keys), rows=not no_rows, sent=sent)
    if as_json:
        write(json.dumps(_facts(found), indent=2).encode())
    elif not found.problems:
        click.echo(f"{found.agent} signed it: {_in_words(found.claims, rows=not no_rows)}")
        tell(f"checked with {found.key}, whose fingerprint is {fingerprint(found.key)}")
    for problem in found.problems:
        tell(f"does not fit: {problem}")
    for what in found.unproved:
        tell(f"not compared: {what}")
    return FAILED if found.problems else DONE


def confirm(question: str, yes: bool) -> None:
    """
    Have a person look at what is signed for what a broker told.

    Raises:
        WordsError: there is nobody to ask, or the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise WordsError(f"{question} Add --yes once you know that it is right")
    if not click.confirm(question, err=True):
        raise WordsError("nothing was signed")


def _agent_key(client: Outhaul, command_id: str, given: str | None) -> str | None:
    if given is not None:
        key = known_agents.given(given).get("sign")
        if key is None:
            raise WordsError("--agent-keys: a proof is checked with the agent's key that begins with ed25519:")
        return key
    command = client.command(command_id)
    if command.agent is None:
        return None
    known, new_in = client.known_agent(command.agent)
    if new_in is not None:
        tell(
            f"{command.agent} was never seen before: its keys are kept in {new_in}. Only the broker says that they are "
            f"its own: compare `outhaul agents {command.agent}` with `outhaul-agent identity` on its machine"
        )
    return known.sign


def _sent(signature_file: Path | None, params: str | None, key_file: Path | None) -> Sent:
    # Deferred: see cli.py.
    from cloud_broker.client.proofs import Sent
    from cloud_broker.client.requests import encoded
    from cloud_broker.client.sealing import SealedCall
    from cloud_broker.client.signing import kept_signature, params_digest

    if params is not None and key_file is not None:
        raise WordsError("--params and --seal-key are of different calls: give one of them")
    digest = None
    if params is not None:
        digest = params_digest(encoded(arguments.object_of(params, "--params")))
    elif key_file is not None:
        digest = sealed_digest(SealedCall.kept(key_file).text.encode())
    return Sent(None if signature_file is None else kept_signature(signature_file), digest)


def _facts(found: Verified) -> dict[str, Any]:
    return {
        "verified": not found.problems,
        "agent": found.agent,
        "key": found.key,
        "fingerprint": fingerprint(found.key) if found.key else "",
        "signed": dict(found.claims),
        "problems": found.problems,
        "unproved": found.unproved,
    }


def _in_words(claims: Mapping[str, Any], *, rows: bool) -> str:
    sets = claims.get("row_sets") or []
    counted = f", {sum(one['rows'] for one in sets):,} rows{'' if rows else ' (not read)'}" if sets else ""
    code = f" ({claims['error_code']})" if claims.get("error_code") else ""
    return (
        f"{claims['operation']} {str(claims['outcome']).replace('_', ' ')}{code}, attempt {claims['epoch']}{counted}, "
        f"at position {claims.get('position')} of its journal"
    )


def _passphrase(what: str, *, new: bool = False) -> str:
    found = os.environ.get(PASSPHRASE)
    if found is None:
        found = _asked(what, new)
    if not found:
        raise WordsError(f"{what}: wants one on a terminal, on standard input or in {PASSPHRASE}")
    return found


def _asked(what: str, new: bool) -> str:
    if sys.stdin.isatty():
        return str(click.prompt(what, hide_input=True, confirmation_prompt=new, err=True))
    return sys.stdin.readline().rstrip("\r\n")
