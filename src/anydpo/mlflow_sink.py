"""Runs as MLflow runs: what was asked for as parameters, every metric at its step, what came out as tags.

Where to and under which name is MLflow's own to say: `MLFLOW_TRACKING_URI`, `MLFLOW_EXPERIMENT_NAME`. A run is one
MLflow run however often it is watched; what is there already is not written again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from anydpo.provider import Event
from anydpo.result import Result, State

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

    from anydpo.handle import Run

TAG = "anydpo.run"
EXPERIMENT = "anydpo"
BATCH = 200  # metrics a request; MLflow takes 1,000
ENDED = {State.SUCCEEDED: "FINISHED", State.FAILED: "FAILED", State.CANCELLED: "KILLED"}


class MLflow:
    """An event sink. `tracking_uri` and `experiment` say otherwise than MLflow's environment variables."""

    def __init__(self, tracking_uri: str | None = None, experiment: str | None = None) -> None:
        import mlflow

        uri = tracking_uri or mlflow.get_tracking_uri()
        self._client: MlflowClient = mlflow.MlflowClient(tracking_uri=uri)
        self._experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        self._ids: dict[str, str] = {}
        self._there: dict[str, set[tuple[str, int]]] = {}
        self._waiting: dict[str, list[Metric]] = {}

    def begin(self, run: Run) -> None:
        """Find the MLflow run of this run, or make it."""
        experiment = self._client.get_experiment_by_name(self._experiment)
        where = experiment.experiment_id if experiment else self._client.create_experiment(self._experiment)
        found = self._client.search_runs([where], f"tags.`{TAG}` = '{run.id}'", max_results=1)
        if found:
            theirs = found[0].info.run_id
            self._there[run.id] = {
                (name, metric.step)
                for name in found[0].data.metrics
                for metric in self._client.get_metric_history(theirs, name)
            }
        else:
            result = run.result()
            tags = {TAG: run.id, "anydpo.place": run.place}
            made = self._client.create_run(where, run_name=result.name or run.id, tags=tags)
            theirs = made.info.run_id
            for name, value in _params(result):
                self._client.log_param(theirs, name, value)
        self._ids[run.id] = theirs
        self._waiting[run.id] = []

    def event(self, run: Run, event: Event) -> None:
        """Keep the metrics of a step, and send them when there are enough."""
        if event.kind == "metrics":
            self._waiting[run.id] += self._metrics(run.id, event.metrics, event.step or 0, event.time)
            if len(self._waiting[run.id]) >= BATCH:
                self._send(run.id)

    def end(self, run: Run, result: Result) -> None:
        """Send the rest, and say how the run ended."""
        step = max((int(record.get("step") or 0) for record in result.metrics.history), default=0)
        final = {name: value for name, value in result.metrics.final.items() if not self._knows(run.id, name)}
        self._waiting[run.id] += self._metrics(run.id, final, step, result.timing.finished)
        self._send(run.id)
        theirs = self._ids[run.id]
        for name, value in _tags(result):
            self._client.set_tag(theirs, name, value)
        if result.state in ENDED:
            self._client.set_terminated(theirs, ENDED[result.state])

    def _knows(self, run: str, name: str) -> bool:
        return any(known == name for known, _ in self._there.get(run, ()))

    def _metrics(self, run: str, values: Mapping[str, Any], step: int, when: float | None) -> Iterator[Metric]:
        from mlflow.entities import Metric

        there = self._there.setdefault(run, set())
        for name, value in values.items():
            if isinstance(value, (int, float)) and (name, step) not in there:
                there.add((name, step))
                yield Metric(name, float(value), int((when or time.time()) * 1000), step)

    def _send(self, run: str) -> None:
        waiting, self._waiting[run] = self._waiting[run], []
        for at in range(0, len(waiting), BATCH):
            self._client.log_batch(self._ids[run], metrics=waiting[at : at + BATCH])


def _params(result: Result) -> Iterator[tuple[str, str]]:
    """Yield what was asked for, flat, cut to what MLflow takes."""
    for name, value in _flat(result.job):
        yield name[:250], str(value)[:6000]


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _tags(result: Result) -> Iterator[tuple[str, str]]:
    told = {
        "state": result.state.value,
        "provider_job_id": result.provider_job_id,
        "model": result.model.tuned,
        "data": result.data.fingerprint,
        "cost_usd": result.cost.amount if result.cost and result.cost.currency == "USD" else None,
        "error": result.error.message if result.error else None,
    }
    for name, value in told.items():
        if value is not None:
            yield f"anydpo.{name}", str(value)[:5000]
