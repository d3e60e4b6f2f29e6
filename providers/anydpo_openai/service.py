"""What differs between the places that speak OpenAI's protocol, as data: OpenAI and Azure's managed route."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any

from anydpo.adapter import Advice, Rule, number, text
from anydpo.provider import Ending
from anydpo.result import State

WANDB = ("project", "name", "entity", "tags")


@dataclass(frozen=True)
class Service:
    """One place: what it is called, what it knows, and what only it has."""

    provider: str
    place: str
    format: str
    facts: Mapping[str, Any]
    options: Mapping[str, Rule]
    advice: Advice
    key_in_suffix: bool = False  # where a list may not give back the metadata
    own_models: str = "ft:"  # what the names of models tuned here hold

    @property
    def limits(self) -> Mapping[str, Any]:
        """Return the limits, as the data file has them."""
        limits: Mapping[str, Any] = self.facts["limits"]
        return limits

    def state(self, word: str | None) -> State | None:
        """Return the state of a status word, None for a word that nobody has documented."""
        found = self.facts["states"].get(word or "")
        return State(found) if found else None

    def base(self, model: str) -> str:
        """Return the base of a model that was tuned here: of `ft:BASE:…` and of `BASE.ft-…`."""
        return model.split(":")[1] if model.startswith("ft:") and model.count(":") > 1 else model.partition(".ft-")[0]

    def model(self, name: str) -> Mapping[str, Any] | None:
        """Return what is known of a model's base, None for one that is not in the table."""
        known: Mapping[str, Any] | None = self.facts["models"].get(self.base(name))
        return known

    def shutdown(self, model: str) -> date | None:
        """Return the day on which a model's base ends, None where none is known."""
        found: date | None = (self.model(model) or {}).get("shutdown")
        return found

    def ends(self, model: str | None) -> tuple[Ending, ...]:
        """Return what ends, and when: new jobs, and all that is tuned from the model's base."""
        known = {
            "new jobs": self.facts["service"].get("last_new_job"),
            f"{self.base(model or '')} and all that is tuned from it": self.shutdown(model or ""),
        }
        return tuple(Ending(what=what, day=day) for what, day in known.items() if day is not None)


@cache
def facts_of(package: str, name: str) -> Mapping[str, Any]:
    """Return a data file of a provider's package."""
    return tomllib.loads((files(package) / name).read_text("utf-8"))


def wandb(value: Any) -> str | None:
    """Say what was expected where a value is no table of Weights & Biases settings."""
    wrong = f"a table with project, and of {', '.join(WANDB)} only; the key belongs into the account"
    if not isinstance(value, Mapping) or not isinstance(value.get("project"), str) or set(value) - set(WANDB):
        return wrong
    tags = value.get("tags", [])
    texts = all(isinstance(value.get(name, ""), str) for name in WANDB[:3])
    return None if texts and isinstance(tags, (list, tuple)) and all(isinstance(tag, str) for tag in tags) else wrong


def metadata(value: Any) -> str | None:
    """Say what was expected where a value is no metadata: up to 15 texts, for one is ours."""
    fits = isinstance(value, Mapping) and len(value) < 16
    if fits and all(isinstance(v, str) and len(k) <= 64 and len(v) <= 512 for k, v in value.items()):
        return None
    return "at most 15 names of 64 and texts of 512 characters"


COMMON: dict[str, Rule] = {
    "learning_rate_multiplier": number(0),
    "sft_learning_rate_multiplier": number(0),
    "metadata": metadata,
    "wandb": wandb,
}

OPENAI = Service(
    provider="openai",
    place="openai",
    format="openai",
    facts=facts_of("anydpo_openai", "openai.toml"),
    options={**COMMON, "suffix": text(64)},
    advice=Advice(
        provider="openai",
        credentials="set OPENAI_API_KEY to a valid key; OPENAI_ORG_ID and OPENAI_PROJECT_ID if it needs them",
        not_eligible="OpenAI closes fine-tuning (no new jobs after 2027-01-06) and has shut out organisations that "
        "have not used it; azure/managed, together and local take the same job",
        retired="choose another model, or another place: `anydpo migrate RUN -p PLACE`",
        safety="the pairs are screened for harmful content, the rejected answers too; leave these out, or train them "
        "on a place that does not screen: local",
    ),
)
