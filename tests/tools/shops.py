"""A place whose runs end at once, and whose held-out accuracy follows from beta and learning rate alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from anydpo.provider import Capabilities, JobRef, Outcome, Plan, TunedTrial, Tuning
from anydpo.result import Cost, Metrics, Stage, State
from anydpo.testing.memory import MemoryProvider, _route
from anydpo.testing.service import Service

BEST_BETA, BEST_RATE = 0.2, 1e-5


def accuracy(beta: float, rate: float) -> float:
    """Return the accuracy of a run: best at BEST_BETA and BEST_RATE, worse by each power of ten away from them."""
    away = abs(math.log10(beta / BEST_BETA)) + abs(math.log10(rate / BEST_RATE))
    return round(1 / (1 + away), 6)


class Shop(MemoryProvider):
    """The reference provider with a held-out metric, and with a tuner of its own that tries the ends of the space."""

    name: ClassVar[str] = "memory"
    capabilities: ClassVar[Mapping[str, Capabilities]] = {
        "": _route("a make-believe service", fields=("epochs", "seed", "learning_rate", "batch_size"), lag_seconds=0.0)
    }

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self.bills = 0.008  # dollars a job, which is what eight pairs are quoted at
        service.set(queue=0.0, seconds=0.0, lag=0.0)
        self.service = service

    def plan(self, job: Any, data: Any, route: str | None = None) -> Plan:
        """Return the plan, with the learning rate in its request."""
        made = super().plan(job, data, route)
        rate = BEST_RATE if job.learning_rate == "auto" else job.learning_rate
        requests = [one.model_copy(update={"body": {**one.body, "rate": rate}}) for one in made.requests]
        return made.model_copy(update={"requests": tuple(requests)})

    def result(self, ref: JobRef) -> Outcome:
        """Return what came of the job, by its own beta and learning rate."""
        found = super().result(ref).model_copy(update={"cost": Cost(amount=self.bills, basis="billed")})
        body = self._body(ref)
        if found.state is not State.SUCCEEDED:
            return found
        if "tuning" in body:
            best = max(self.trials(ref), key=lambda trial: trial.value or 0.0)
            stages = tuple(Stage(stage="trial", provider_job_id=t.ref.id, state=t.state) for t in self.trials(ref))
            metrics = Metrics(final={"eval/rewards/accuracies": best.value})
            return found.model_copy(update={"stages": stages, "metrics": metrics})
        reached = accuracy(body["beta"], body["rate"])
        final: dict[str, float | None] = {"eval/rewards/accuracies": reached, "train/loss": 0.5}
        return found.model_copy(update={"metrics": Metrics(final=final)})

    def tuning_plan(self, plan: Plan, tuning: Tuning) -> Plan:
        """Return the plan of a tuning job."""
        body = {**plan.requests[0].body, "tuning": tuning.model_dump(mode="json")}
        request = plan.requests[0].model_copy(update={"url": f"{plan.target}/tuning", "body": body})
        return plan.model_copy(update={"requests": (request,)})

    def trials(self, ref: JobRef) -> tuple[TunedTrial, ...]:
        """Return a trial for each choice of beta."""
        body = self._body(ref)
        return tuple(
            TunedTrial(
                values={"method.beta": beta},
                ref=JobRef(id=f"{ref.id}-{number}", place="memory"),
                state=State.SUCCEEDED,
                value=accuracy(beta, body["rate"]),
            )
            for number, beta in enumerate(body["tuning"]["space"]["method.beta"], 1)
        )

    def _body(self, ref: JobRef) -> dict[str, Any]:
        return dict(next(job["body"] for job in self.service.jobs() if job["id"] == ref.id))
