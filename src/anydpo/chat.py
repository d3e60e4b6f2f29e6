"""Any OpenAI-compatible endpoint, as far as one completion needs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import httpx

from anydpo.clock import Reads, SystemClock, retry_after
from anydpo.errors import AnyDPOError, AuthFailed, Invalid, ProviderRefused, Unavailable

SECONDS = 120.0  # that one completion may take


@dataclass(frozen=True)
class Endpoint:
    """Where completions are asked for; the key is never shown."""

    url: str
    key: str | None = field(default=None, repr=False)

    @property
    def origin(self) -> str:
        """The address without what may be secret in it."""
        from anydpo.adapter import origin

        return origin(self.url)

    @property
    def on_this_machine(self) -> bool:
        """Whether nothing is paid for: it runs here."""
        from anydpo.adapter import is_loopback

        return is_loopback(self.url)


class Chat:
    """A client of one endpoint: it asks again where the service is busy, and knows no provider's own words."""

    def __init__(self, endpoint: Endpoint, reads: Reads | None = None) -> None:
        self.endpoint = endpoint
        self._reads = reads or Reads(SystemClock())
        headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        self._http = httpx.Client(base_url=endpoint.url.rstrip("/") + "/", headers=headers, timeout=SECONDS)
        self._without: set[str] = set()  # options that this endpoint does not take

    def __enter__(self) -> Chat:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def complete(self, model: str, messages: list[dict[str, Any]], **options: Any) -> str:
        """Return the text that the model answers. Raises what the endpoint says, by what may be done about it."""
        while True:
            given = {name: value for name, value in options.items() if name not in self._without}
            try:
                return self._reads(lambda: self._ask({"model": model, "messages": messages, **given}))  # noqa: B023
            except Invalid as exc:
                refused = next((name for name in given if name in exc.message), None)
                if refused is None:
                    raise
                self._without.add(refused)  # such as a temperature for a model that has none

    def _ask(self, body: dict[str, Any]) -> str:
        where = self.endpoint.origin
        try:
            answer = self._http.post("chat/completions", json=body)
        except httpx.HTTPError as exc:
            raise Unavailable(f"{where}: {type(exc).__name__}", hint="is the address right?") from None
        if answer.status_code != 200:
            raise self._refusal(answer)
        try:
            text = answer.json()["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            raise ProviderRefused(f"{where} answered no completion", hint="is it OpenAI-compatible?") from None
        return str(text or "")

    def _refusal(self, answer: httpx.Response) -> AnyDPOError:
        import time

        where, said = self.endpoint.origin, answer.text[:300]
        if self.endpoint.key:
            said = said.replace(self.endpoint.key, "***")
        message = f"{where} answered {answer.status_code}: {said}"
        if answer.status_code in (401, 403):
            return AuthFailed(message, hint="set its key in ANYDPO_JUDGE_API_KEY or OPENAI_API_KEY")
        if answer.status_code == 429 or answer.status_code >= 500:
            return Unavailable(message, retry_after=retry_after(answer.headers.get("retry-after"), time.time()))
        return Invalid(message) if answer.status_code in (400, 422) else ProviderRefused(message)
