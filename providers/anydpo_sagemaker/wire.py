"""AWS's services through `boto3`, its repetitions off: what is asked again is asked by the core."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, cast

from anydpo.errors import (
    AnyDPOError,
    AuthFailed,
    CapacityUnavailable,
    JobInvalid,
    OutcomeUnknown,
    ProviderRefused,
    QuotaExceeded,
    Unavailable,
)

NAME = "sagemaker"
CREDENTIALS = "sign in (`aws sso login`, `aws configure`) or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
NO_CREDENTIALS = frozenset(
    "ExpiredToken ExpiredTokenException UnrecognizedClientException InvalidClientTokenId InvalidSignatureException"
    " SignatureDoesNotMatch MissingAuthenticationToken IncompleteSignature InvalidAccessKeyId InvalidToken"
    " AuthFailure RequestExpired".split()
)
NOT_ALLOWED = frozenset("AccessDenied AccessDeniedException UnauthorizedOperation NotAuthorized 403".split())
THROTTLED = frozenset(
    "ThrottlingException Throttling ThrottledException TooManyRequestsException RequestLimitExceeded SlowDown"
    " RequestThrottled PriorRequestNotComplete".split()
)
ABSENT = frozenset("ResourceNotFound ResourceNotFoundException NoSuchKey NoSuchBucket NotFound 404".split())
NOT_THERE = re.compile(r"(could not|cannot|can't|not) (be )?(find|found)|does not exist|no such", re.IGNORECASE)


class Absent(ProviderRefused):
    """What was asked for is not there."""


def client(service: str, region: str) -> Any:
    """Return the client of a service; credentials and endpoints are those of the AWS chain as it is now."""
    chain = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    return _client(service, region, chain)


@lru_cache(maxsize=16)
def _client(service: str, region: str, chain: tuple[tuple[str, str], ...]) -> Any:  # noqa: ARG001 - its key alone
    from boto3.session import Session
    from botocore.config import Config

    once = Config(
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=10,
        read_timeout=60,
        user_agent_extra="anydpo",
    )
    return Session(botocore_session=_session()).client(cast("Any", service), region_name=region, config=once)


def _session() -> Any:
    """Return a session of the present chain that shares what has been read of the services' models."""
    import botocore.session

    made = botocore.session.get_session()
    made.register_component("data_loader", loader())
    return made


@lru_cache(maxsize=1)
def loader() -> Any:
    """Return botocore's loader of service models, which keeps what it has read."""
    from botocore.loaders import create_loader

    return create_loader()


@contextmanager
def speaking(what: str, *, creating: bool = False) -> Iterator[None]:
    """Translate what boto3 raises into errors typed by what the caller may do next.

    `creating` is the one request that may have made a paid job: there, no clear answer is `OutcomeUnknown`.
    """
    try:
        from botocore import exceptions as aws
        from botocore.parsers import ResponseParserError
        from urllib3.exceptions import HTTPError
    except ImportError:
        raise AuthFailed("boto3 is not installed", provider=NAME, hint="pip install 'anydpo[sagemaker]'") from None
    try:
        yield
    except aws.ClientError as exc:
        raise answered(exc.response, what, creating=creating) from None
    except aws.ParamValidationError as exc:
        raise JobInvalid(f"{what}: {exc}", provider=NAME, hint="`anydpo check` shows what is sent") from None
    except (
        aws.NoCredentialsError, aws.PartialCredentialsError, aws.CredentialRetrievalError, aws.ProfileNotFound,
        aws.TokenRetrievalError, aws.SSOError,
    ) as exc:  # fmt: skip
        raise AuthFailed(f"{what}: {exc}", provider=NAME, hint=CREDENTIALS) from None
    except (aws.BotoCoreError, ResponseParserError, HTTPError, ValueError, KeyError, OSError) as exc:
        if isinstance(exc, (AnyDPOError, FileNotFoundError)):
            raise
        kind: type[AnyDPOError] = OutcomeUnknown if creating else Unavailable
        raise kind(f"{what}: no clear answer: {type(exc).__name__}: {exc}", provider=NAME) from None


def answered(response: Mapping[str, Any], what: str, *, creating: bool) -> AnyDPOError:
    """Return the error of an answer of 4xx or 5xx."""
    error, meta = response.get("Error", {}), response.get("ResponseMetadata", {})
    code, status = str(error.get("Code", "")), int(meta.get("HTTPStatusCode", 0))
    said = f"{what}: {error.get('Message') or code} ({code})"
    if code in NO_CREDENTIALS:
        return AuthFailed(said, provider=NAME, hint=CREDENTIALS)
    if code in NOT_ALLOWED:
        hint = "the caller needs this permission, iam:PassRole for the role, and for the serverless route the managed "
        return AuthFailed(said, provider=NAME, hint=f"{hint}policy AmazonSageMakerModelCustomizationCoreAccess")
    wait = _seconds(meta.get("HTTPHeaders", {}).get("retry-after"))
    if code in THROTTLED or status == 429:
        busy: type[AnyDPOError] = CapacityUnavailable if creating else Unavailable
        return busy(said, provider=NAME, hint="try again later", retry_after=wait)
    if status >= 500:
        lost: type[AnyDPOError] = OutcomeUnknown if creating else Unavailable
        return lost(said, provider=NAME, retry_after=wait)
    if code == "ResourceLimitExceeded":
        hint = "ask for more in the console: Service Quotas, Amazon SageMaker, the quota that the message names; a new "
        return QuotaExceeded(said, provider=NAME, hint=f"{hint}account has 0 of most GPU instances; or fail over")
    if code == "CapacityError":
        return CapacityUnavailable(said, provider=NAME, hint="name several instance types, or try again later")
    if code in ABSENT or (not creating and code == "ValidationException" and NOT_THERE.search(said)):
        return Absent(said, provider=NAME)
    if code in ("ValidationException", "ValidationError", "InvalidParameterValue"):
        return JobInvalid(
            said, provider=NAME, hint="change the job as the message says; `anydpo check` shows what is sent"
        )
    return ProviderRefused(said, provider=NAME)


def _seconds(text: str | None) -> float | None:
    import time

    from anydpo.clock import retry_after

    return retry_after(text, time.time())
