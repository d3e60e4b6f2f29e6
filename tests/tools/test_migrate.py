"""A run's job for another place: what the file holds is what was trained, and every difference is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import anydpo
from anydpo import PreferenceJob, cli
from anydpo.data.write import json_line
from anydpo.errors import Invalid, ProviderMissing
from anydpo.migration import Migration
from anydpo.plan import prepare
from anydpo.registry import using
from anydpo.samples import pairs
from anydpo.testing.memory import MemoryProvider
from anydpo.testing.service import Service
from tests.conformance.helpers import ROWS


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    made.set(queue=0.0, seconds=0.0, lag=0.0)
    with using(MemoryProvider(made)):
        yield made


@pytest.fixture
def prefs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "prefs.jsonl"
    path.write_bytes(b"".join(map(json_line, pairs(40))))
    return path


def a_run(**fields: Any) -> anydpo.Run:
    usual: dict[str, Any] = {"model": "tiny", "data": "prefs.jsonl", "validation": 0.2, "epochs": 2, "seed": 3}
    usual |= {"method": anydpo.DPO(beta=0.3), "name": "tone", "options": {"memory": {"tier": "a"}}}
    run = anydpo.submit(PreferenceJob(**{**usual, **fields}), "memory")
    run.wait()
    return run


def fates(found: Migration) -> dict[str, str]:
    return {change.field: change.kind for change in found.changes}


def written(found: Migration, tmp_path: Path) -> PreferenceJob:
    path = tmp_path / "there" / "job.toml"
    path.parent.mkdir(exist_ok=True)
    found.save(path)
    return PreferenceJob.from_toml(path)


def test_the_file_is_the_same_job(service: Service, prefs: Path, tmp_path: Path) -> None:
    run = a_run()
    found = anydpo.migrate(run, "local")
    job = written(found, tmp_path)
    assert found.ready
    assert (job.model, job.epochs, job.seed, job.method.beta, job.name) == ("tiny", 2, 3, 0.3, "tone")
    there = prepare(job, "local")
    assert there.train.fingerprint == run.result().data.fingerprint  # the same pairs, the same held out
    assert there.validation is not None
    assert len(there.validation) == run.result().data.validation_pairs
    assert fates(found)["method.beta"] == "kept"
    assert fates(found)["options.memory.tier"] == "lost"
    assert service.requests("create") == 1  # the run's own: nothing was sent anywhere
    assert len(anydpo.runs()) == 1


def test_what_was_sent_serves_where_the_users_file_is_gone(service: Service, prefs: Path, tmp_path: Path) -> None:
    run = a_run()
    prefs.unlink()
    found = anydpo.migrate(run, "local")
    assert found.ready
    job = written(found, tmp_path)
    assert prepare(job, "local").train.fingerprint == run.result().data.fingerprint
    assert str(job.data).startswith(str(tmp_path / "home" / "staged"))


def test_a_changed_file_is_not_taken_for_the_one_that_was_trained(service: Service, prefs: Path) -> None:
    run = a_run()
    prefs.write_bytes(b"".join(map(json_line, pairs(41))))
    found = anydpo.migrate(run, "local")
    assert "data" not in fates(found)
    assert "staged" in found.text


def test_data_from_memory_has_its_copy(service: Service, tmp_path: Path) -> None:
    run = a_run(data=anydpo.load(ROWS), validation=None)
    job = written(anydpo.migrate(run, "local"), tmp_path)
    assert prepare(job, "local").train.fingerprint == run.result().data.fingerprint


def test_a_field_without_effect_is_lost_with_the_reason(
    service: Service, prefs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")  # nobody listens there: nothing is asked
    run = a_run(model={"openai": "gpt-4.1-mini-2025-04-14", "default": "m"}, learning_rate=1e-5)
    found = anydpo.migrate(run, "openai")
    told = {change.field: change for change in found.changes}
    assert told["learning_rate"].kind == "lost"
    assert told["learning_rate"].before == 1e-5
    assert "no effect here" in (told["learning_rate"].reason or "")
    assert "# lost: learning_rate = 1e-05" in found.text
    job = written(found, tmp_path)
    assert "learning_rate" not in job.model_fields_set
    assert found.ready
    assert anydpo.check(job, "openai").ok
    assert told["model"].after == "gpt-4.1-mini-2025-04-14"


def test_what_only_the_user_can_say_stands_as_a_problem(service: Service, prefs: Path) -> None:
    found = anydpo.migrate(a_run(), "together")  # tiny is no model of together
    assert not found.ready
    assert [problem["field"] for problem in found.problems] == ["model"]
    assert 'model = "tiny"  # to be changed: ' in found.text


def test_a_start_at_the_old_place_does_not_go_along(service: Service, prefs: Path) -> None:
    run = a_run(allow_ignored=("start_from",), start_from="tuned:job-1")
    told = {change.field: change for change in anydpo.migrate(run, "local").changes}
    assert told["start_from"].kind == "lost"
    assert "fetch" in (told["start_from"].reason or "")


def test_from_the_command_line(service: Service, prefs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = a_run()
    assert cli.run(["migrate", run.id, "-p", "local"]) == 0
    said = capsys.readouterr()
    assert "lost\toptions.memory.tier\ta" in said.out
    assert "kept\tmethod.beta\t0.3\t0.3" in said.out
    assert "nothing was sent" in said.err
    assert Path("tone-local.toml").is_file()
    assert cli.run(["check", "tone-local.toml"]) == 0
    assert cli.run(["migrate", run.id, "-p", "local"]) == 2  # the file is there
    capsys.readouterr()
    assert cli.run(["migrate", run.id, "-p", "local", "-o", "b.toml", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["run"], found["place"], found["ready"], found["path"]) == (run.id, "local", True, "b.toml")
    assert cli.run(["migrate", run.id, "-p", "together", "-o", "c.toml"]) == 2
    assert cli.run(["migrate", run.id, "-p", "nowhere"]) == 2
    assert cli.run(["migrate", "nothing", "-p", "local"]) == 2


def test_errors_are_typed(service: Service, prefs: Path, tmp_path: Path) -> None:
    run = a_run()
    with pytest.raises(ProviderMissing):
        anydpo.migrate(run, "nowhere")
    found = anydpo.migrate(run, "local")
    (tmp_path / "x.toml").write_text("")
    with pytest.raises(Invalid, match="is there already"):
        found.save(tmp_path / "x.toml")
