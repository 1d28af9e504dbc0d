"""
What can go wrong on the agent, as a tree. ``code`` is what the caller of the HTTP API sees.

* AgentError                                            agent_error
    * ConfigError                                       config_invalid
    * SecretError                                       secret_unavailable
    * UpgradeError                                      upgrade_failed
        * UpgradeNotAllowed                             upgrade_not_allowed
    * JournalOfLaterRelease                             journal_of_later_release
    * EnrolmentError                                    enrolment_failed
        * TokenRefused                                  token_refused
    * ServiceError                                      service_error
        * ServiceNotAllowed                             service_not_allowed
    * LinkError                                         link_lost             retryable
        * LinkRefused                                   link_refused          retryable
    * CommandError
        * OperationUnknown                              operation_unknown
        * ParametersInvalid                             parameters_invalid
        * NotAllowed                                    not_allowed
        * CannotUnseal                                  cannot_unseal
        * ProcedureChanged                              procedure_changed
        * TooManyRows                                   too_many_rows
        * BlobUnavailable                               blob_unavailable
        * Paused                                        paused                retryable
        * SignatureError                                signature_error
            * SignatureMissing                          signature_missing
            * SignatureInvalid                          signature_invalid
            * SignatureNotYetValid                      signature_not_yet_valid
            * SignatureExpired                          signature_expired
            * SignatureReplayed                         signature_replayed
            * SignatureMemoryFull                       signature_memory_full retryable
            * SignerUnknown                             signer_unknown
            * CallerNotAllowed                          caller_not_allowed
        * DeadlinePassed                                deadline_passed
        * Cancelled                                     cancelled
        * AgentStopping                                 agent_stopping        retryable
        * JournalUnavailable                            journal_unavailable   retryable
        * JournalConflict                               journal_conflict
        * NotHappened                                   not_happened          retryable
        * ResultLost                                    result_lost
        * ConnectorError
            * SourceUnavailable                         source_unavailable    retryable
            * SourceFailed                              source_failed
            * SourceRejected                            source_rejected
            * TimedOut                                  timed_out             retryable
            * OutcomeUnknown                            outcome_unknown
            * DriverCrashed                             driver_crashed        retryable
            * ContentInvalid                            content_invalid
            * ContentDamaged                            content_damaged       retryable
            * FileExists                                file_exists
            * ValueUnreadable                           value_unreadable
"""

from __future__ import annotations

from typing import ClassVar

from protocol import limits


class AgentError(Exception):
    """Something went wrong on the agent; the text is for people and names place and fix."""

    code: ClassVar[str] = "agent_error"
    retryable: ClassVar[bool] = False


class ConfigError(AgentError):
    """The operator's file is wrong; the text names file, key, line and fix."""

    code = "config_invalid"


class SecretError(AgentError):
    """A secret is missing, or the store that keeps them can't be opened."""

    code = "secret_unavailable"


class UpgradeError(AgentError):
    """Another release could not be put in this one's place; the text says what runs now."""

    code = "upgrade_failed"


class UpgradeNotAllowed(UpgradeError):
    """A package must not be installed: nobody who is trusted signed it, or it is for another place or time."""

    code = "upgrade_not_allowed"


class JournalOfLaterRelease(AgentError):
    """The journal has a format that a later release made; the text names both and what to do."""

    code = "journal_of_later_release"


class EnrolmentError(AgentError):
    """No certificate was obtained."""

    code = "enrolment_failed"


class TokenRefused(EnrolmentError):
    """The broker refused the token: spent, expired or unknown. Final: a new token is needed."""

    code = "token_refused"


class ServiceError(AgentError):
    """The system's service could not be made, removed, started or stopped; the text has the fix."""

    code = "service_error"


class ServiceNotAllowed(ServiceError):
    """This account may not do that to a service; the text says which may."""

    code = "service_not_allowed"


class LinkError(AgentError):
    """
    The link could not be opened, or was lost.

    Attributes:
        stage: how far it came: ``setup``, ``dns``, ``tcp``, ``proxy``, ``tls``, ``certificate``, ``http`` or ``link``.
        retry_after_s: seconds that the other side wants us to wait; 0 says nothing about it.
        trouble: the kind, a key of ``agent.link.failures.TROUBLES``; "" where it is none of them.
        floor_s: seconds that pass at least before the next dial.
        found: what was found: the text without the fix.
        fix: what to do about it, which also ends the text; "" where that stands nowhere by itself.
    """

    code = "link_lost"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        stage: str = "link",
        retry_after_s: float = 0.0,
        trouble: str = "",
        floor_s: float = 0.0,
        fix: str = "",
    ) -> None:
        super().__init__(f"{message}; {fix}" if fix else message)
        self.stage = stage
        self.retry_after_s = retry_after_s
        self.trouble = trouble
        self.floor_s = floor_s
        self.found = message
        self.fix = fix


class LinkRefused(LinkError):
    """The broker, or a proxy on the way, said no; tried again, at a slower pace."""

    code = "link_refused"
    retryable = True


class CommandError(AgentError):
    """
    One command could not be done.

    Attributes:
        message: for people, without secrets; cut to ``limits.MAX_ERROR_CHARS`` characters.
        source_code: the code the source itself gave (SQLSTATE, SOAP fault code), or "".
        touched: whether the work may have begun at the source. An error with ``touched``
            false is certain to have had no effect.
        may_work_later: whether the same may well succeed at another time; the class's ``retryable`` unless told.
        remedy: the code of ``agent.check.remedies`` that `check` shows for it; "" where there is no special one.
    """

    code = "command_error"

    def __init__(
        self,
        message: str,
        *,
        source_code: str = "",
        touched: bool = True,
        may_work_later: bool | None = None,
        remedy: str = "",
    ) -> None:
        super().__init__(message)
        self.may_work_later = self.retryable if may_work_later is None else may_work_later
        # Names of files may hold what is no Unicode, and an error must never be what can't be told.
        self.message = message[: limits.MAX_ERROR_CHARS].encode(errors="backslashreplace").decode()
        self.source_code = source_code
        self.touched = touched
        self.remedy = remedy


class OperationUnknown(CommandError):
    """The operator's file has no operation of this name."""

    code = "operation_unknown"


class ParametersInvalid(CommandError):
    """The parameters do not fit the types in the operator's file."""

    code = "parameters_invalid"


class NotAllowed(CommandError):
    """The operator's policy forbids it; the text names the rule and how an operator would allow it."""

    code = "not_allowed"


class CannotUnseal(CommandError):
    """The parameters are not sealed to this agent for this command, or its result can't be sealed; nothing was run."""

    code = "cannot_unseal"


class ProcedureChanged(CommandError):
    """The procedure's parameters in the database are not those that the operator's file pins; nothing was run."""

    code = "procedure_changed"


class TooManyRows(CommandError):
    """The result has more rows than the operator's file allows; the work was undone, and what came is no result."""

    code = "too_many_rows"


class BlobUnavailable(CommandError):
    """The blob that the parameters name can't be had from the broker, or not be stored here; nothing was begun."""

    code = "blob_unavailable"


class Paused(CommandError):
    """Somebody at the agent's machine paused the connection; there was no effect, and only there it can be undone."""

    code = "paused"
    retryable = True


class SignatureError(CommandError):
    """A rule of the file wants a caller's signature, and this is none that it takes. Certain to have had no effect."""

    code = "signature_error"


class SignatureMissing(SignatureError):
    """The operation runs only when a trusted caller signed it, and nobody did."""

    code = "signature_missing"


class SignatureInvalid(SignatureError):
    """It is no signature, was made with another key, or was made for something else than what came."""

    code = "signature_invalid"


class SignatureNotYetValid(SignatureError):
    """By the agent's clock the signature, or the signer's key, is not valid yet; the text says by how much."""

    code = "signature_not_yet_valid"


class SignatureExpired(SignatureError):
    """By the agent's clock the signature, or the signer's key, is not valid any more; the text says by how much."""

    code = "signature_expired"


class SignatureReplayed(SignatureError):
    """The signature came before, with another command."""

    code = "signature_replayed"


class SignatureMemoryFull(SignatureError):
    """The agent remembers as many signatures as it can, and must not run what it could not tell from a replay."""

    code = "signature_memory_full"
    retryable = True


class SignerUnknown(SignatureError):
    """The operator's file names no caller of this name."""

    code = "signer_unknown"


class CallerNotAllowed(SignatureError):
    """A trusted caller signed it, but the operation is not for this one."""

    code = "caller_not_allowed"


class DeadlinePassed(CommandError):
    """The command's deadline had passed before it could start."""

    code = "deadline_passed"


class Cancelled(CommandError):
    """The caller's cancel came in time: there was no effect."""

    code = "cancelled"


class AgentStopping(CommandError):
    """The agent is stopping and starts nothing new."""

    code = "agent_stopping"
    retryable = True


class JournalUnavailable(CommandError):
    """The agent's journal can't be written, so nothing that must not run twice is begun."""

    code = "journal_unavailable"
    retryable = True


class JournalConflict(CommandError):
    """A command of this id is in the journal already, with another operation or other parameters; it was not run."""

    code = "journal_conflict"


class NotHappened(CommandError):
    """Its end was not heard, and it was found out since that it had no effect: it may be sent again."""

    code = "not_happened"
    retryable = True


class ResultLost(CommandError):
    """It happened, and what it returned is not kept any more."""

    code = "result_lost"


class ConnectorError(CommandError):
    """A local system, or the driver between it and us, did not do the work."""

    code = "connector_error"


class SourceUnavailable(ConnectorError):
    """The local system could not be reached, or did not let us in."""

    code = "source_unavailable"
    retryable = True


class SourceFailed(ConnectorError):
    """The local system failed for a technical reason and certainly kept no effect."""

    code = "source_failed"


class SourceRejected(ConnectorError):
    """The ERP said no: a business answer, listed as such in the operator's file."""

    code = "source_rejected"


class TimedOut(ConnectorError):
    """The operation's timeout passed and the work was stopped with certainty."""

    code = "timed_out"
    retryable = True


class OutcomeUnknown(ConnectorError):
    """Contact was lost while the work was under way: it may have happened."""

    code = "outcome_unknown"


class DriverCrashed(ConnectorError):
    """The driver's process died; the agent lives. It may have happened if it had begun."""

    code = "driver_crashed"
    retryable = True


class ContentInvalid(ConnectorError):
    """What was to be written can't be: wrong shape, or not in the file's encoding."""

    code = "content_invalid"


class ContentDamaged(ConnectorError):
    """What came of a blob is not what its digest says; nothing was written under its name, and it is fetched again."""

    code = "content_damaged"
    retryable = True


class FileExists(ConnectorError):
    """A file of this name is there already, and the operation does not say that it may be replaced."""

    code = "file_exists"


class ValueUnreadable(ConnectorError):
    """The driver returned a value that can't be passed on without change; the column is named."""

    code = "value_unreadable"
