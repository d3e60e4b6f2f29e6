"""One request at several places in order, and the terms on which it may go from one to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from anydpo.errors import Invalid, JobInvalid, Problem
from anydpo.fallback import passed_over
from anydpo.identity import chain_id
from anydpo.job import PreferenceJob
from anydpo.plan import Prepared, prepare_all
from anydpo.records import ChoiceRow


@dataclass(frozen=True)
class Terms:
    """On which terms a run may go on elsewhere.

    `max_wait` is how many seconds a place may keep it waiting, for an answer and in its queue; `on_safety` lets a
    refusal by a safety screening count; `max_cost_usd` caps what all places together may cost.
    """

    max_wait: float | None = None
    on_safety: bool = False
    max_cost_usd: float | None = None


@dataclass(frozen=True)
class Chain:
    """One request at several places in order; it goes on to the next where one says no for its own reasons."""

    prepared: tuple[Prepared, ...]
    terms: Terms = field(default_factory=Terms)
    prices: tuple[float | None, ...] = ()

    @property
    def run_id(self) -> str:
        """The id of this request: the same places in the same order are the same run."""
        return chain_id([(one.fingerprint, one.plan.place, one.plan.target) for one in self.prepared])

    @property
    def usable(self) -> tuple[Prepared, ...]:
        """The places that can take the job."""
        return tuple(one for one in self.prepared if passed_over(one.plan) is None)

    def or_raise(self) -> Chain:
        """Return this, or raise `JobInvalid`: no place can take the job, or one that may has a problem with it."""
        for one in self.usable:
            one.or_raise()
        if not self.usable:
            why = [(one.plan.place, passed_over(one.plan) or {}) for one in self.prepared]
            raise JobInvalid.of([Problem("model", "no_place", f"{name}: {said['message']}") for name, said in why])
        return self

    def choices(self, files: Sequence[list[dict[str, Any]]], plans: Sequence[dict[str, Any]]) -> list[ChoiceRow]:
        """Return this as the journal holds it."""
        rows = []
        for at, one in enumerate(self.prepared):
            rows.append(
                ChoiceRow(
                    id=f"{self.run_id}.{at}",
                    run=self.run_id,
                    at=at,
                    place=one.plan.place,
                    fingerprint=one.fingerprint,
                    plan=plans[at],
                    files=files[at],
                    terms=self.terms_at(at),
                    skipped=passed_over(one.plan),
                )
            )
        return rows

    def terms_at(self, at: int) -> dict[str, Any]:
        """Return the terms with the price of one place, where prices were asked for."""
        return {**asdict(self.terms), "price_usd": self.prices[at] if self.prices else None}


def chain_of(job: PreferenceJob, places: Sequence[str], terms: Terms | None = None) -> Chain:
    """Return the request at these places. Raises `Invalid` where a place stands there twice."""
    prepared = prepare_all(job, places)
    named = [one.plan.place for one in prepared]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise Invalid(f"{', '.join(twice)} is there twice", hint="a fallback names each place once")
    return Chain(tuple(prepared), terms or Terms())
