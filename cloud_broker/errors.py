"""
What the HTTP API says no with: each has a status, a stable code and a title; ``api/problems.py`` writes them.

* BrokerError                                   500  internal_error
    * RequestInvalid                            400  request_invalid
        * RequestTooLarge                       413  request_too_large
        * NotAcceptable                         406  not_acceptable
        * ContentTypeUnsupported                415  content_type_unsupported
        * RequestTimeout                        408  request_timeout
        * UriTooLong                            414  uri_too_long
        * HeadersTooLarge                       431  headers_too_large
        * ParametersInvalid                     422  parameters_invalid
        * IdempotencyKeyReused                  422  idempotency_key_reused
    * Unauthenticated                           401  unauthenticated
        * CredentialExpired                     401  credential_expired
    * Forbidden                                 403  forbidden
        * TenantSuspended                       403  tenant_suspended
        * TenantNotNamed                        403  tenant_not_named
        * SecondPersonNeeded                    403  second_person_needed
    * NotFound                                  404  not_found
        * CommandNotFound                       404  command_not_found
        * AgentNotFound                         404  agent_not_found
        * OperationNotFound                     404  operation_not_found
        * RowSetNotFound                        404  row_set_not_found
        * ReplayRunNotFound                     404  replay_run_not_found
        * ApprovalNotFound                      404  approval_not_found
        * BlobNotFound                          404  blob_not_found
        * ContentNotFound                       404  content_not_found
    * MethodNotAllowed                          405  method_not_allowed
    * Conflict                                  409  conflict
        * NotFinished                           409  not_finished
        * ResolveFirst                          409  resolve_first
        * SignatureWanted                       409  signature_wanted
    * ResultGone                                410  result_gone
    * TooManyRequests                           429  too_many_requests
        * TooManyAtOnce                         429  too_many_at_once
        * TooManyOpenCommands                   429  too_many_open_commands
        * TooManyConnections                    429  too_many_connections
        * TooManyWrongKeys                      429  too_many_wrong_keys
    * Unavailable                               503  unavailable
        * StoreUnavailable                      503  store_unavailable
    * NoRoom                                    507  no_room
"""

from __future__ import annotations

from typing import Any, ClassVar


class BrokerError(Exception):
    """
    A request can't be served.

    Attributes:
        detail: for people: what was wrong and what would be right.
        extra: further members of the problem document, such as ``errors`` or ``operations``.
        retry_after_s: seconds, for ``Retry-After``; ``None`` says nothing.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "The broker failed"

    def __init__(self, detail: str, *, retry_after_s: float | None = None, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = extra
        self.retry_after_s = retry_after_s


class RequestInvalid(BrokerError):
    """The request can't be understood."""

    status = 400
    code = "request_invalid"
    title = "The request can't be understood"


class RequestTooLarge(RequestInvalid):
    """The body is beyond a limit."""

    status = 413
    code = "request_too_large"
    title = "The request is too large"


class NotAcceptable(RequestInvalid):
    """None of the media types in Accept can be given."""

    status = 406
    code = "not_acceptable"
    title = "None of the accepted formats can be given"


class ContentTypeUnsupported(RequestInvalid):
    """The body is in a format that is not read here."""

    status = 415
    code = "content_type_unsupported"
    title = "The body's format is not supported"


class RequestTimeout(RequestInvalid):
    """The request came too slowly; the connection is closed."""

    status = 408
    code = "request_timeout"
    title = "The request came too slowly"


class UriTooLong(RequestInvalid):
    """The path and query are beyond a limit; the connection is closed."""

    status = 414
    code = "uri_too_long"
    title = "The path and query are too long"


class HeadersTooLarge(RequestInvalid):
    """The headers are beyond a limit; the connection is closed."""

    status = 431
    code = "headers_too_large"
    title = "The headers are too large"


class ParametersInvalid(RequestInvalid):
    """The parameters do not fit the operation; ``errors`` lists each with its name and reason."""

    status = 422
    code = "parameters_invalid"
    title = "The parameters do not fit the operation"


class IdempotencyKeyReused(RequestInvalid):
    """The idempotency key was used before, for another request."""

    status = 422
    code = "idempotency_key_reused"
    title = "The idempotency key was used for another request"


class Unauthenticated(BrokerError):
    """No key or token, or one that is unknown, wrong or revoked."""

    status = 401
    code = "unauthenticated"
    title = "A valid key is needed"


class CredentialExpired(Unauthenticated):
    """The key or token was good, and its time is up."""

    code = "credential_expired"
    title = "The key or token has expired"


class Forbidden(BrokerError):
    """The key is valid but may not do this."""

    status = 403
    code = "forbidden"
    title = "The key may not do this"


class TenantSuspended(Forbidden):
    """The tenant is suspended; nothing new is taken."""

    code = "tenant_suspended"
    title = "The tenant is suspended"


class TenantNotNamed(Forbidden):
    """The key is for several tenants, and the request names none, or one that is not there."""

    code = "tenant_not_named"
    title = "Name a tenant with the Outhaul-Tenant header"


class SecondPersonNeeded(Forbidden):
    """The act needs two people, and this key does not show that its owner is another one."""

    code = "second_person_needed"
    title = "Another person must decide"


class NotFound(BrokerError):
    """There is no such thing here; another tenant's looks the same."""

    status = 404
    code = "not_found"
    title = "Not found"


class CommandNotFound(NotFound):
    """There is no such command."""

    code = "command_not_found"
    title = "No such command"


class AgentNotFound(NotFound):
    """There is no such agent or group; ``agents`` names those there are."""

    code = "agent_not_found"
    title = "No such agent or group"


class OperationNotFound(NotFound):
    """The operator's file names no such operation; ``operations`` names those there are."""

    code = "operation_not_found"
    title = "No such operation"


class RowSetNotFound(NotFound):
    """The result has no row set of this number."""

    code = "row_set_not_found"
    title = "No such row set"


class ReplayRunNotFound(NotFound):
    """There is no such replay of dead letters."""

    code = "replay_run_not_found"
    title = "No such replay"


class ApprovalNotFound(NotFound):
    """There is no such approval."""

    code = "approval_not_found"
    title = "No such approval"


class BlobNotFound(NotFound):
    """There is no such blob; one that nothing named for a while was removed."""

    code = "blob_not_found"
    title = "No such blob"


class ContentNotFound(NotFound):
    """The command has picked no such file, or none whose format is raw."""

    code = "content_not_found"
    title = "No such content"


class MethodNotAllowed(BrokerError):
    """The route exists, with other methods."""

    status = 405
    code = "method_not_allowed"
    title = "The route has other methods"


class Conflict(BrokerError):
    """The thing is in a state that does not allow this."""

    status = 409
    code = "conflict"
    title = "Not in this state"


class NotFinished(Conflict):
    """The command has not ended yet."""

    code = "not_finished"
    title = "The command has not ended"


class ResolveFirst(Conflict):
    """The command is in doubt: somebody must find out whether it happened before it is done again."""

    code = "resolve_first"
    title = "Resolve the command first"


class SignatureWanted(Conflict):
    """The command was signed for once: who wants it done again signs it again."""

    code = "signature_wanted"
    title = "A new signature is wanted"


class ResultGone(BrokerError):
    """The rows were removed, or never arrived whole."""

    status = 410
    code = "result_gone"
    title = "The rows are no longer there"


class TooManyRequests(BrokerError):
    """The tenant asks more often than it may; ``Retry-After`` says when to ask again."""

    status = 429
    code = "too_many_requests"
    title = "Too many requests"


class TooManyAtOnce(TooManyRequests):
    """The tenant has as many requests under way as it may."""

    code = "too_many_at_once"
    title = "Too many requests at once"


class TooManyOpenCommands(TooManyRequests):
    """The tenant has as many commands under way as it may; nothing was accepted."""

    code = "too_many_open_commands"
    title = "Too many commands under way"


class TooManyConnections(TooManyRequests):
    """The address has as many connections as it may; this one is closed."""

    code = "too_many_connections"
    title = "Too many connections"


class TooManyWrongKeys(TooManyRequests):
    """Too many wrong keys came from this address; good ones are taken from it all the same."""

    code = "too_many_wrong_keys"
    title = "Too many wrong keys"


class Unavailable(BrokerError):
    """Not now; try again."""

    status = 503
    code = "unavailable"
    title = "Not available now"


class StoreUnavailable(Unavailable):
    """The store can't be written; nothing was accepted."""

    code = "store_unavailable"
    title = "Nothing can be kept now"


class NoRoom(BrokerError):
    """The disk is full, or the tenant's blobs have as many bytes as they may; nothing was kept."""

    status = 507
    code = "no_room"
    title = "There is no room for this"
