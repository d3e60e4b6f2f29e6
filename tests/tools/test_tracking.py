"""Event sinks: told of everything that is seen of a run, and never able to break it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import anydpo
from anydpo import Event, EventSink, Result, Run, State, cli
from anydpo.errors import ProviderMissing
from anydpo.handle import watch_all
from anydpo.registry import using
from anydpo.testing.memory import MemoryProvider
from anydpo.testing.service import STEPS, Service
from anydpo.tracking import sinks_named
from tests.conformance.helpers import memory_job


class Notes:
    """A sink that remembers."""

    def __init__(self, fails_at: str = "") -> None:
        self.seen: list[tuple[str, Any]] = []
        self._fails_at = fails_at

    def _note(self, what: str, about: Any) -> None:
        self.seen.append((what, about))
        if what == self._fails_at:
            raise RuntimeError("the tracker is full")

    def begin(self, run: Run) -> None:
        self._note("begin", run.id)

    def event(self, run: Run, event: Event) -> None:
        self._note("event", event)

    def end(self, run: Run, result: Result) -> None:
        self._note("end", result.state)


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    made.set(queue=0.0, seconds=0.0, lag=0.0)
    with using(MemoryProvider(made)):
        yield made


def test_a_sink_is_told_all_that_a_watcher_sees(service: Service) -> None:
    sink = Notes()
    assert isinstance(sink, EventSink)
    run = anydpo.submit(memory_job(), "memory").track(sink)
    seen = list(run.watch())
    assert [what for what, _ in sink.seen] == ["begin", *["event"] * len(seen), "end"]
    assert [about for what, about in sink.seen if what == "event"] == seen
    assert sink.seen[-1] == ("end", State.SUCCEEDED)
    assert sum(event.kind == "metrics" for event in seen) == STEPS
    waited = Notes()
    anydpo.run(memory_job(), "memory", track=[waited])
    assert [what for what, _ in waited.seen] == [what for what, _ in sink.seen]


@pytest.mark.parametrize("method", ["begin", "event", "end"])
def test_a_sink_that_fails_is_a_warning_and_the_others_go_on(service: Service, method: str) -> None:
    bad, good = Notes(fails_at=method), Notes()
    run = anydpo.submit(memory_job(), "memory").track(bad, good)
    result = run.wait()
    assert result.state is State.SUCCEEDED
    assert [warning.message for warning in result.warnings if warning.code == "tracker"] == [
        "Notes failed and is told no more of this run: RuntimeError: the tracker is full"
    ]
    assert [what for what, _ in bad.seen].count(method) == 1
    assert good.seen[-1] == ("end", State.SUCCEEDED)


def test_several_runs_that_are_watched_together_are_told_of_too(service: Service) -> None:
    sink = Notes()
    runs = [anydpo.submit(memory_job(seed=seed), "memory").track(sink) for seed in (1, 2)]
    seen = list(watch_all(runs))
    assert [about for what, about in sink.seen if what == "begin"] == [run.id for run in runs]
    assert [about for what, about in sink.seen if what == "event"] == [event for _, event in seen]
    assert [about for what, about in sink.seen if what == "end"] == [State.SUCCEEDED] * 2


def test_an_unknown_tracker_is_named(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ProviderMissing, match="no tracker 'nothing'"):
        sinks_named(["nothing"])
    run = anydpo.submit(memory_job(), "memory")
    assert cli.run(["wait", run.id, "--track", "nothing", "--json"]) == 2
    assert "installed: mlflow" in json.loads(capsys.readouterr().out)["error"]["hint"]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder as MLflow's store, which needs nothing beside the small package, and its own telemetry off."""
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.setenv(name, "true")
    uri = (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


def test_mlflow_has_every_metric_at_its_step_once(service: Service, store: str) -> None:
    import mlflow

    from anydpo.mlflow_sink import MLflow

    run = anydpo.submit(memory_job(name="tone", epochs=2), "memory")
    anydpo.Run(run.id).track(MLflow(store)).wait()
    result = anydpo.Run(run.id).track(MLflow(store)).wait()  # watched twice it is one run all the same
    assert not [warning for warning in result.warnings if warning.code == "tracker"]
    client = mlflow.MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("anydpo")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "tone"
    assert found.info.status == "FINISHED"
    assert found.data.tags["anydpo.run"] == run.id
    assert found.data.tags["anydpo.state"] == "succeeded"
    assert found.data.params["epochs"] == "2"
    logged = client.get_metric_history(found.info.run_id, "train/loss")
    steps = [(record["step"], record["train/loss"]) for record in result.metrics.history]
    assert [(metric.step, metric.value) for metric in logged] == steps


def test_mlflow_from_the_command_line(service: Service, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    import mlflow

    run = anydpo.submit(memory_job(), "memory")
    assert cli.run(["watch", run.id, "--track", "mlflow"]) == 0
    client = mlflow.MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("anydpo")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 1
