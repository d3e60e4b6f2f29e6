"""What adapters of places behind HTTP share: wishes that cannot be met, placeholders, metric names, refusals."""

from __future__ import annotations

import atexit
import difflib
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar
from urllib.parse import urlsplit

from anydpo.clock import retry_after
from anydpo.errors import (
    AnyDPOError,
    AuthFailed,
    CapacityUnavailable,
    JobInvalid,
    ModelRetired,
    NotEligible,
    OutcomeUnknown,
    Problem,
    ProviderRefused,
    QuotaExceeded,
    SafetyRefused,
    Unavailable,
)
from anydpo.job import PreferenceJob
from anydpo.provider import DataSummary, Diagnosis, Plan, Staged
from anydpo.result import METRICS

FILES = {"train": "training_file", "validation": "validation_file", "sft": "sft_file"}  # a file → its placeholder
PLACEHOLDER = re.compile(r"\$\{([a-z_]+)\}")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
CHARACTERS_A_TOKEN = 4
CANONICAL = frozenset(f"{part}/{name}" for part in ("train", "eval") for name in METRICS)
SAFETY = re.compile(
    r"\bRAI\b|harm types?|content[ _]?(policy|filter|management)|safety|usage polic|moderation", re.IGNORECASE
)
RETIRED = re.compile(r"deprecat|retired|shut ?down|no longer (available|supported)|has ended|sunset", re.IGNORECASE)
QUOTA = re.compile(r"insufficient[_ ]?(quota|funds|balance|credit)|billing|spending limit|credit limit", re.IGNORECASE)


Rule: TypeAlias = "Callable[[Any], str | None]"  # None for a value that will do, else what was expected


class Wishes:
    """Collects what a place cannot do of what a job asks: problems, or `ignored` where the user allowed it."""

    def __init__(self, job: PreferenceJob) -> None:
        self._allowed = frozenset(job.allow_ignored)
        self.problems: list[Problem] = []
        self.ignored: list[str] = []

    def refuse(self, field: str, code: str, message: str, hint: str | None = None) -> None:
        """Add a problem that stands whatever the user allows."""
        self.problems.append(Problem(field, code, message, hint))

    def unmet(self, field: str, message: str, hint: str | None = None) -> bool:
        """Add a wish that has no effect here, and return whether the user allowed to go on without it."""
        if field in self._allowed:
            self.ignored.append(field)
            return True
        self.refuse(field, "not_honoured", message, hint or f'allow_ignored = ["{field}"] goes on without it')
        return False

    def options(
        self, provider: str, given: Mapping[str, Any], known: Mapping[str, Callable[[Any], str | None]]
    ) -> None:
        """Check `[options.PROVIDER]`: each name against the known ones, each value by its own rule."""
        for name, value in given.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
                self.refuse(f"options.{provider}.{name}", "unknown_field", "no such option", hint)
            elif (wrong := known[name](value)) is not None:
                self.refuse(f"options.{provider}.{name}", "wrong_value", f"is {value!r:.100}, expected {wrong}")


def number(
    above: float | None = None, *, least: float | None = None, whole: bool = False
) -> Callable[[Any], str | None]:
    """Return the rule of a number option: None for a value that will do, else what was expected."""
    kind = "a whole number" if whole else "a number"
    bound = f" above {above:g}" if above is not None else f" of at least {least:g}" if least is not None else ""

    def rule(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not math.isfinite(value):
            return kind + bound
        low = (above is not None and value <= above) or (least is not None and value < least)
        return kind + bound if low else None

    return rule


def text(most: int | None = None, pattern: str | None = None) -> Rule:
    """Return the rule of a text option."""

    def rule(value: Any) -> str | None:
        if not isinstance(value, str) or not value or (most is not None and len(value) > most):
            return f"a text of 1 to {most} characters" if most else "a text"
        return f"letters as in {pattern}" if pattern is not None and not re.fullmatch(pattern, value) else None

    return rule


def truth(value: Any) -> str | None:
    """Say what was expected where a value is neither true nor false."""
    return None if isinstance(value, bool) else "true or false"


def origin(url: str) -> str:
    """Return scheme, host and port of an address, without a user or password in it."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")


def public(url: str) -> str:
    """Return an address as it may be shown: without a user, a password or a query in it."""
    return f"{origin(url)}{urlsplit(url).path}"


def is_loopback(url: str) -> bool:
    """Say whether an address is on this machine."""
    host = urlsplit(url).hostname or ""
    return host in LOOPBACK or host.startswith("127.") or host.endswith(".localhost")


def filled(body: Any, values: Mapping[str, str]) -> Any:
    """Return a body with its placeholders filled; raises `JobInvalid` naming one that nobody knows."""
    if isinstance(body, Mapping):
        return {name: filled(value, values) for name, value in body.items()}
    if isinstance(body, (list, tuple)):
        return [filled(value, values) for value in body]
    if not isinstance(body, str) or not (found := PLACEHOLDER.fullmatch(body)):
        return body
    if found[1] not in values:
        raise JobInvalid(f"{body} is not known", hint="submit the job again, so that its files are sent first")
    return values[found[1]]


def known_files(staged: Iterable[Staged]) -> dict[str, str]:
    """Return placeholder → id of files that a place has."""
    return {FILES[item.name]: item.id for item in staged}


def create_of(plan: Plan, path: str) -> dict[str, Any]:
    """Return the body of the create request of a plan's stage; `path` is what the address of a create ends with."""
    creates = [request.body for request in plan.requests if request.url.endswith(path)]
    return creates[plan.stages.index(plan.stage)]


def canonical_metrics(given: Mapping[str, Any], names: Mapping[str, str], skip: Iterable[str] = ()) -> dict[str, Any]:
    """Return numbers under canonical names, others under `provider/`; what is no finite number is None."""
    made: dict[str, Any] = {}
    for name, value in given.items():
        if name in skip or not isinstance(value, (int, float, str)) or isinstance(value, bool):
            continue
        try:
            found = float(value)
        except ValueError:
            continue
        ours = names.get(name) or (name if name in CANONICAL else f"provider/{name}")
        made[ours] = found if math.isfinite(found) else None
    return made


def tokens_of(characters: int) -> int:
    """Return a guess at tokens: four characters each."""
    return math.ceil(characters / CHARACTERS_A_TOKEN)


class Sizes(NamedTuple):
    """Tokens of one pass over the data: `pairs` with each prompt read once for either answer, `chats` with the chosen
    answers alone, `held_out` over the validation pairs; `how` says whether they were counted or guessed.
    """

    pairs: int
    chats: int
    held_out: int
    how: str


def sizes(data: DataSummary) -> Sizes:
    """Return the tokens of one pass over the data, as counted, or else guessed from its characters."""
    if data.tokens:
        prompt, chosen = data.tokens["prompt"], data.tokens["chosen"]
        how = f"{data.counted}; a prompt counts with both of its answers"
        pairs = 2 * prompt + chosen + data.tokens["rejected"]
        return Sizes(pairs, prompt + chosen, data.tokens.get("validation", 0), how)
    pairs = tokens_of(2 * data.prompt_characters + data.answer_characters)
    chats = tokens_of(data.prompt_characters + data.answer_characters // 2)
    held_out = math.ceil(pairs * (data.validation_pairs or 0) / max(data.train_pairs, 1))
    return Sizes(pairs, chats, held_out, "four characters a token; a prompt counts with both of its answers")


class Closes(Protocol):
    """A client that holds connections."""

    def close(self) -> None: ...


C = TypeVar("C", bound=Closes)


class Clients(Generic[C]):
    """SDK clients, one an address and credential, so that the connections of one process are used again."""

    def __init__(self, most: int = 8) -> None:
        self._most, self._lock, self._made = most, threading.Lock(), dict[tuple[str | None, ...], C]()
        atexit.register(self.close)

    def __call__(self, key: tuple[str | None, ...], make: Callable[[], C]) -> C:
        """Return the client of this key; the one that was made first is closed when there are too many."""
        with self._lock:
            if key not in self._made:
                self._made[key] = make()
                if len(self._made) > self._most:
                    self._made.pop(next(iter(self._made))).close()
            return self._made[key]

    def close(self) -> None:
        """Close all of them."""
        with self._lock:
            while self._made:
                self._made.popitem()[1].close()


def diagnosed(
    connect: Callable[[], C], ask: Callable[[C], object], credentials: Callable[[], str], address: str
) -> tuple[Diagnosis, ...]:
    """Return whether there are credentials, which `credentials` puts into words, and the service answers to them."""
    try:
        client = connect()
    except AnyDPOError as exc:
        return (Diagnosis(what="credentials", ok=None, detail=exc.message),)
    found = Diagnosis(what="credentials", ok=True, detail=credentials())
    try:
        ask(client)
    except AnyDPOError as exc:
        return (found, Diagnosis(what="service", ok=False, detail=f"{address}: {exc.message}"))
    return (found, Diagnosis(what="service", ok=True, detail=f"{address} answers"))


class Answer(NamedTuple):
    """What a service answered where it did not do what it was asked; `status` is 0 where nothing was answered."""

    status: int
    message: str
    code: str | None = None
    wait: float | None = None
    said: str = ""


def answer_of(status: int, body: Any, headers: Mapping[str, str], secrets: Iterable[str | None] = ()) -> Answer:
    """Return an error answer in the shape that OpenAI, Azure and Together share, with no credential left in it."""
    error = body.get("error", body) if isinstance(body, Mapping) else body
    if isinstance(error, Mapping):
        message, code = str(error.get("message") or error.get("code") or ""), error.get("code") or error.get("type")
    else:
        message, code = str(error or ""), None
    for secret in secrets:
        message = message.replace(secret, "***") if secret else message
    wait = retry_after(headers.get("retry-after"), time.time())
    return Answer(status, message[:1000] or f"HTTP {status}", str(code) if code else None, wait)


class Advice(NamedTuple):
    """What a place tells its users to do where it says no."""

    provider: str
    credentials: str
    not_eligible: str
    retired: str
    safety: str
    invalid: str = "change the job as the provider says; `anydpo check` shows what is sent"


def refusal(answer: Answer, advice: Advice, *, creating: bool = False) -> AnyDPOError:
    """Return the error of an answer, typed by what the caller may do next.

    `creating` is a request that may have made a paid job: there, no clear answer is `OutcomeUnknown`.
    """
    name, said = advice.provider, f"{answer.message}" + (f" (HTTP {answer.status})" if answer.status else "")
    words = f"{answer.code or ''} {answer.message}"
    if answer.status in (0, 408) or answer.status >= 500 or answer.status < 400:
        if creating:
            return OutcomeUnknown(f"no clear answer to the create: {said}", provider=name, retry_after=answer.wait)
        return Unavailable(said, provider=name, hint="try again later", retry_after=answer.wait)
    if answer.status == 401:
        return AuthFailed("the credentials were refused (HTTP 401)", provider=name, hint=advice.credentials)
    if answer.status == 402 or (answer.status == 429 and QUOTA.search(words)):
        return QuotaExceeded(said, provider=name, hint="raise the limit or add credit in the account, or fail over")
    if answer.status == 429:
        kind: type[AnyDPOError] = CapacityUnavailable if creating else Unavailable
        return kind(said, provider=name, hint="try again later", retry_after=answer.wait)
    if answer.status == 403:
        return NotEligible(said, provider=name, hint=advice.not_eligible)
    if SAFETY.search(words):
        return SafetyRefused(said, provider=name, hint=advice.safety)
    if answer.status in (400, 404, 410, 422) and RETIRED.search(words):
        return ModelRetired(said, provider=name, hint=advice.retired)
    if answer.status in (400, 422):
        return JobInvalid(said, provider=name, hint=advice.invalid)
    return ProviderRefused(said, provider=name)
