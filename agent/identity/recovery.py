"""How an agent whose certificate ran out while it slept gets another: it shows the old one, and signs with its key."""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent import RELEASE
from agent.errors import EnrolmentError
from agent.identity import authorities, succession
from agent.identity import held as identity
from agent.identity.exchange import exchange
from agent.identity.held import Identity
from agent.link.routes import Routes
from agent.secrets import SecretStore
from protocol import signing
from protocol.codec import Record
from protocol.messages import Enrolled, Recover

if TYPE_CHECKING:
    from agent.identity.certificates import Pending

RENEWAL_FOLDER: Final = "renewal"


async def recover(who: Identity, state_dir: Path, routes: Routes, secrets: SecretStore) -> Identity:
    """
    Ask for another certificate, put it in force, and return it; the old one stays until the broker took the new one.

    Raises:
        Refused: the broker gives none.
        LinkError: the broker was not reached.
        EnrolmentError: what came is no certificate of this agent.
        OSError: it can't be kept.
    """
    pending, question, context = await asyncio.to_thread(_prepare, who, state_dir)
    answer, certificate = await exchange(who.url, context, routes, secrets, question)
    return await asyncio.to_thread(_keep, who, pending, answer, certificate, state_dir)


def _prepare(who: Identity, state_dir: Path) -> tuple[Pending, Record, ssl.SSLContext]:
    # Imported here: it costs the agent 10 MiB, and most never need it.
    from agent.identity import certificates

    folder = identity.identity_folder(state_dir) / RENEWAL_FOLDER
    # Not the request of a renewal: what that one got may have run out as well.
    pending = certificates.pending(folder, f"recovery of {who.serial}", who.passphrase)
    csr = certificates.signing_request(pending.key)
    signature = certificates.signature(who.key.read_bytes(), who.passphrase, signing.recovery(pending.request, csr))
    question = Recover(
        certificate=base64.b64encode(ssl.PEM_cert_to_DER_cert(who.certificate.read_text("ascii"))).decode("ascii"),
        request=pending.request,
        signature=base64.b64encode(signature).decode("ascii"),
        release=RELEASE,
    )
    context = identity.trusting(who.authorities.read_text("utf-8"))
    return pending, Record(question, csr), context


def _keep(who: Identity, pending: Pending, answer: Enrolled, der: bytes, state_dir: Path) -> Identity:
    from agent.identity import certificates

    issued = certificates.checked(der, pending.key, who.tenant, who.agent)
    now = time.time()
    if issued.not_after <= now:
        forget_request(state_dir)
        raise EnrolmentError("the certificate that the broker sent has run out as well; is this machine's clock right?")
    trusted = authorities.authorities_in(answer.authorities) if answer.authorities else authorities.authorities_of(who)
    succession.write_beside(
        state_dir, issued, key_pem=pending.key_pem, authorities=trusted, url=who.url, obtained_at=now
    )
    if not succession.switch(state_dir, who.serial, issued.serial):
        raise EnrolmentError("somebody enrolled this agent meanwhile; that stands")
    return identity.of_serial(state_dir, issued.serial, who.passphrase)


def forget_request(state_dir: Path) -> None:
    """Let the next request be another one, as the broker will not answer this one well."""
    # Imported here: it brings libraries of archives along.
    import shutil

    shutil.rmtree(identity.identity_folder(state_dir) / RENEWAL_FOLDER, ignore_errors=True)
