"""One question at the broker's door for agents without a certificate that is good, and its answer."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from agent.errors import EnrolmentError, LinkError
from agent.link.routes import Routes
from agent.link.websocket import open_any
from agent.secrets import SecretStore
from protocol import codec
from protocol.codec import Record
from protocol.errors import RemoteProtocolError
from protocol.messages import Enrolled, Goodbye

ANSWER_S: Final = 30.0  # seconds for the broker to sign; it takes milliseconds


class Refused(Exception):
    """
    The broker said no.

    Attributes:
        reason: for people.
        retry_after_s: seconds after which it may be asked again; 0: never for this.
    """

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


async def exchange(
    url: str, context: ssl.SSLContext, routes: Routes, secrets: SecretStore, question: Record
) -> tuple[Enrolled, bytes]:
    """
    Ask for a certificate, and return the answer with the certificate (DER).

    Args:
        url: of the broker.
        context: whom we trust; it shows no certificate.
        routes: how it is reached.
        question: Enrol or Recover.

    Raises:
        Refused: the broker said no.
        LinkError: the broker was not reached, or its answer was lost; the same question may be asked again.
        EnrolmentError: the answer is none.
    """
    transport = await open_any(url, "/enrol", context, routes, secrets)
    try:
        async with asyncio.timeout(ANSWER_S):
            await transport.send(codec.encode(question))
            answer = next(iter(codec.decode(await transport.receive())))
    except TimeoutError as exc:
        raise LinkError(f"{url} did not answer within {ANSWER_S:.0f} s; run the same command again") from exc
    except RemoteProtocolError as exc:
        raise EnrolmentError(f"{url} gave an answer that is none of a broker's: {exc}") from exc
    finally:
        await transport.close()
    message = answer.message
    if isinstance(message, Enrolled):
        return message, bytes(answer.payload)
    if isinstance(message, Goodbye) and message.code == "refused":
        raise Refused(message.reason, message.retry_after_s)
    if isinstance(message, Goodbye):
        raise LinkError(f"{url} said goodbye ({message.code}: {message.reason}); run the same command again")
    raise EnrolmentError(f"{url} answered with {type(message).__name__}, which is no answer to this")
