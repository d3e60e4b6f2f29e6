"""Every error this package raises on purpose.

AnyDPOError
├── Invalid                     exit 2  nothing was sent; the input has to change
│   ├── JobInvalid                      a field of the job, with the nearest right name
│   ├── DataInvalid                     a file, a row, a dialect
│   └── ProviderMissing                 no such place, or its package is not installed
├── RunFailed                   exit 1  the run itself ended badly
│   ├── ProviderFault                   (may fail over)
│   └── WaitedTooLong                   (may fail over)
├── AuthFailed                  exit 3  credentials missing or refused
├── ProviderRefused             exit 4  the provider answered: no
│   ├── QuotaExceeded                   (may fail over)
│   ├── CapacityUnavailable             (may fail over, may be tried again)
│   ├── NotEligible                     (may fail over)
│   ├── ModelRetired                    (may fail over)
│   ├── Unavailable                     (may fail over, may be tried again)
│   └── SafetyRefused
├── OutcomeUnknown              exit 5  a write may have happened; nothing is sent again by itself
├── JournalError                exit 6  our own record cannot be read or written
└── CapExceeded                 exit 7  refused by the user's own limit; nothing was sent

Code branches on three questions only: may the same call be made again (`retryable`), may another place be
tried instead (`failover`), and did it possibly happen (`OutcomeUnknown`)?
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple


class Problem(NamedTuple):
    """One thing that has to change: which field, a fixed word, what is wrong, what to do."""

    field: str
    code: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class AnyDPOError(Exception):
    """Base of every error this package raises on purpose."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    retryable: bool = False
    failover: bool = False
    retry_after: float | None = None  # seconds the provider asked us to wait, where it said

    def __init__(
        self, message: str, *, provider: str | None = None, hint: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.provider, self.hint, self.retry_after = message, provider, hint, retry_after

    def __str__(self) -> str:
        where = f"[{self.provider}] " if self.provider else ""
        return f"{where}{self.message}" + (f"\n  hint: {self.hint}" if self.hint else "")

    def to_dict(self) -> dict[str, object]:
        """Return the `error` object of a failing `--json` command."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "provider": self.provider,
            "retryable": self.retryable,
            "failover": self.failover,
        }


class Invalid(AnyDPOError, ValueError):
    """The input has to change; nothing was sent."""

    code, exit_code = "invalid", 2


class JobInvalid(Invalid):
    """Fields of the job are wrong; `problems` names each."""

    code = "job_invalid"

    def __init__(
        self,
        message: str,
        *,
        provider: str | None = None,
        hint: str | None = None,
        retry_after: float | None = None,
        problems: Sequence[Problem] = (),
    ) -> None:
        super().__init__(message, provider=provider, hint=hint, retry_after=retry_after)
        self.problems = tuple(problems)

    @classmethod
    def of(cls, problems: Sequence[Problem], *, provider: str | None = None) -> JobInvalid:
        """Return the error that says all of these; a single one's hint is the error's."""
        hint = problems[0].hint if len(problems) == 1 else None
        said = [f"{p.field}: {p.message}" if hint else str(p) for p in problems]
        return cls("\n".join(said), provider=provider, hint=hint, problems=problems)

    def to_dict(self) -> dict[str, object]:
        """Return the `error` object of a failing `--json` command, with every problem."""
        return {**super().to_dict(), "problems": [problem._asdict() for problem in self.problems]}


class DataInvalid(Invalid):
    """A data file cannot be used as it is."""

    code = "data_invalid"


class ProviderMissing(Invalid):
    """No provider of that name can be loaded."""

    code = "provider_missing"


class RunFailed(AnyDPOError):
    """The run ended in a state other than `succeeded`."""

    code, exit_code = "run_failed", 1


class ProviderFault(RunFailed):
    """The provider's own machinery failed under the run."""

    code, failover = "provider_fault", True


class WaitedTooLong(RunFailed):
    """The provider did not begin within the time that the user allows; its job was cancelled."""

    code, failover = "waited_too_long", True


class AuthFailed(AnyDPOError):
    """Credentials are missing or were refused."""

    code, exit_code = "auth_failed", 3


class ProviderRefused(AnyDPOError):
    """The provider answered: no."""

    code, exit_code = "provider_refused", 4


class QuotaExceeded(ProviderRefused):
    """A quota or spending limit of the account is used up."""

    code, failover = "quota_exceeded", True


class CapacityUnavailable(ProviderRefused):
    """No machine is free at the provider now."""

    code, retryable, failover = "capacity_unavailable", True, True


class NotEligible(ProviderRefused):
    """This account may not tune this model there."""

    code, failover = "not_eligible", True


class ModelRetired(ProviderRefused):
    """The model or the service has ended there."""

    code, failover = "model_retired", True


class Unavailable(ProviderRefused):
    """The service does not answer now."""

    code, retryable, failover = "unavailable", True, True


class SafetyRefused(ProviderRefused):
    """The provider's safety screening refused the data or the model."""

    code = "safety_refused"


class OutcomeUnknown(AnyDPOError):
    """A write may have happened; nothing is sent again by itself."""

    code, exit_code = "outcome_unknown", 5


class JournalError(AnyDPOError):
    """Our own record of runs cannot be read or written."""

    code, exit_code = "journal_error", 6


class CapExceeded(AnyDPOError):
    """The price is above the user's own cap; nothing was sent."""

    code, exit_code = "cap_exceeded", 7


def kinds() -> dict[str, type[AnyDPOError]]:
    """Return every kind of error by its code: what a journal or a result has kept of one is its code."""
    found: list[type[AnyDPOError]] = [AnyDPOError]
    for kind in found:
        found += kind.__subclasses__()
    return {kind.code: kind for kind in found}
