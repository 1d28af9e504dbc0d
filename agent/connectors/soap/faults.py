"""What a fault or an odd reply means: did the ERP say no, did it fail, or can nobody tell?"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from agent.connectors.soap.envelope import Fault
from agent.connectors.soap.reply import Reply
from agent.errors import ConnectorError, OutcomeUnknown, SourceFailed, SourceRejected
from agent.settings import Effect

# Codes by which a service says that it did not begin: SOAP's own, then those of WS-Security.
_NOT_BEGUN: Final = frozenset({"Client", "Sender", "VersionMismatch", "MustUnderstand", "DataEncodingUnknown"})
_NOT_LET_IN: Final = frozenset(
    {"FailedAuthentication", "InvalidSecurity", "InvalidSecurityToken", "UnsupportedSecurityToken", "FailedCheck"}
)


def judge(
    fault: Fault, business: Collection[str], declared: Collection[str], effect: Effect, service: str
) -> ConnectorError:
    """
    Return the error that a fault stands for.

    Args:
        business: codes and detail elements by which the ERP says no, from the operator's file.
        declared: detail elements that the WSDL names for the operation; they are answers, not accidents.
        effect: of the operation; where it may run again, an accident needs no person.
    """
    code = fault.codes[0] if fault.codes else ""
    text = fault.text or "no reason was given"
    for name in (*fault.details, *fault.codes):
        if name in business:
            return SourceRejected(text, source_code=name)
    detail = f" ({', '.join(fault.details)})" if fault.details else ""
    source_code = fault.details[0] if fault.details and fault.details[0] in declared else code
    if not _NOT_LET_IN.isdisjoint(fault.codes):
        return SourceFailed(f"{service} did not let us in: {text}; check auth of the connection", source_code=code)
    if not _NOT_BEGUN.isdisjoint(fault.codes) or any(name in declared for name in fault.details):
        return SourceFailed(f"{service} refused the request: {code}{detail}: {text}", source_code=source_code)
    if effect in ("read", "idempotent"):
        return SourceFailed(f"{service} failed: {code}{detail}: {text}", source_code=source_code)
    return OutcomeUnknown(
        f"{service} failed: {code}{detail}: {text}; whether it was done before it failed can't be told. "
        "If it means that nothing was done, name it in business_faults of the operation",
        source_code=source_code,
    )


def odd_reply(reply: Reply, reason: str, service: str) -> ConnectorError:
    """
    Return the error that a reply without SOAP in it stands for.

    Args:
        reason: why it is no SOAP.
    """
    code, shown = str(reply.status), reply.shown() or "an empty reply"
    if reply.status in (401, 403):
        return SourceFailed(
            f"{service} did not let us in (HTTP {code}); check auth of the connection", source_code=code
        )
    if 300 <= reply.status < 400:
        return SourceFailed(
            f"{service} sends us on to {reply.headers.get('location', 'another place')[:200]} (HTTP {code}), which is "
            "not followed; name the right address as `endpoint` of the connection",
            source_code=code,
        )
    if 400 <= reply.status < 500:
        return SourceFailed(f"{service} refused the request (HTTP {code}): {shown}", source_code=code)
    return OutcomeUnknown(f"{service} answered HTTP {code} and no SOAP ({reason}): {shown}", source_code=code)
