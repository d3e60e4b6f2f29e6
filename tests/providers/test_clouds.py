"""What holds at every cloud: the wire, at most one job, uploads that are whole, refusals by type, no secret anywhere."""

from __future__ import annotations

import json
import re
import traceback
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import anydpo
from anydpo import PreferenceJob, errors
from anydpo.adapter import answer_of, filled
from anydpo.plan import prepare
from anydpo.provider import JobRef
from anydpo.result import State
from tests.providers.clouds import Cloud, a_cloud, a_job, cloud
from tests.sandbox.recorded import errors as violations

__all__ = ["cloud"]

SPEC = {
    "openai": ("openai", "/fine_tuning/jobs"),
    "azure": ("openai", "/fine_tuning/jobs"),
    "together": ("together", "/fine-tunes"),
}
# What is sent and the specification of 2026-04-28 refuses, and why it is right all the same
BEYOND = {
    ("together", "$.lr_scheduler.lr_scheduler_args"): "its oneOf refuses what both of its schemas hold",
    ("together", "$.training_method"): "`train_on_inputs` is a boolean or auto and of the type boolean at once",
    ("together", "$"): "`model` is not sent beside from_checkpoint: the SDK raises ValueError for both",
}


def bodies_refused(cloud: Cloud, body: dict[str, Any]) -> list[str]:
    name, path = SPEC[cloud.provider.name]
    from tests.sandbox.recorded import specification

    document, _ = specification(name)
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    found = violations(name, schema, body)
    return [one for one in found if (cloud.provider.name, one.partition(":")[0]) not in BEYOND]


def test_one_job_goes_to_every_cloud_and_every_result_has_one_form(cloud: Cloud) -> None:
    result = cloud.finished(validation=anydpo.load([dict(row) for row in HELD_OUT]))
    assert result.state is State.SUCCEEDED
    assert result.sandbox
    assert result.model.tuned
    assert result.model.how_to_use
    schema = json.loads((Path(anydpo.__file__).parent / "schemas" / "result.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(result.to_dict())
    assert result.metric("train/loss") is not None
    assert result.metric("eval/loss") is not None
    assert result.metric("train/logits/chosen") is None
    assert "train/logits/chosen" in result.metrics.missing
    assert [record["step"] for record in result.metrics.history if "train/loss" in record] == [1, 2, 3]  # 24 pairs by 8
    assert result.usage.train_tokens
    assert result.method.effective["method"] == {"loss_type": "sigmoid", "beta": 0.1} | (
        {"reference_free": False} if cloud.place == "together" else {}
    )
    assert str(result.versions["sdk"]).startswith(("openai 3.", "together 3."))


HELD_OUT = [{"prompt": f"Held out {i}?", "chosen": f"Yes, of course {i}.", "rejected": "No."} for i in range(10)]


def test_what_check_shows_is_what_is_sent(cloud: Cloud) -> None:
    prepared = cloud.prepared(validation=anydpo.load(HELD_OUT))
    cloud.dispatch.submit(prepared)
    (attempt,) = cloud.dispatch.journal.attempts(prepared.run_id)
    ids = {("training_file" if s["name"] == "train" else f"{s['name']}_file"): s["id"] for s in attempt.staged}
    shown = [request for request in prepared.plan.requests if request.url.endswith(("/jobs", "/fine-tunes"))]
    (body,) = cloud.bodies()
    assert filled(shown[0].body, {**ids, "key": attempt.key}) == body
    assert list(shown[0].body) == list(body)
    assert bodies_refused(cloud, body) == []


def test_sft_then_dpo_are_two_jobs_and_the_second_starts_from_the_first(cloud: Cloud) -> None:
    result = cloud.finished(sft=anydpo.SFT(data="chosen", epochs=2))
    assert result.state is State.SUCCEEDED
    first, second = cloud.bodies()
    assert bodies_refused(cloud, first) == bodies_refused(cloud, second) == []
    sft = result.stages[0]
    assert [stage.stage for stage in result.stages] == ["sft", "dpo"]
    if cloud.place == "together":
        assert (first["training_method"]["method"], second["training_method"]["method"]) == ("sft", "dpo")
        assert "model" not in second
        assert second["from_checkpoint"].endswith(str(first["suffix"])) or first["suffix"] in second["from_checkpoint"]
    else:
        assert (first["method"]["type"], second["method"]["type"]) == ("supervised", "dpo")
        assert second["model"].startswith("ft:") or ".ft-" in second["model"]
    assert first["training_file"] != second["training_file"]
    assert sft.provider_job_id != result.provider_job_id


@pytest.mark.parametrize(
    "fault",
    [{"fault": "lost_reply"}, *({"fault": "half_reply", "shape": s} for s in ("no_id", "truncated", "cut"))],
    ids=lambda f: f.get("shape", "lost"),
)
def test_a_create_without_a_whole_answer_is_sent_once_and_found(cloud: Cloud, fault: dict[str, Any]) -> None:
    cloud.box.break_({**fault, "on": ["create"], "times": 1})
    run = cloud.submit()
    assert len(cloud.sent()) == cloud.made() == 1
    (attempt,) = cloud.dispatch.journal.attempts(run)
    service: Any = cloud.box.services[cloud.provider.name]
    assert attempt.provider_job_id == service.jobs.all()[0].id


def test_a_job_that_the_list_shows_late_is_still_found(cloud: Cloud) -> None:
    cloud.box.break_({"fault": "late_list", "requests": 3}, {"fault": "lost_reply", "on": ["create"], "times": 1})
    cloud.submit()
    assert len(cloud.sent()) == cloud.made() == 1


@pytest.mark.parametrize("percent", [0, 1, 50, 99, 100])
def test_an_upload_that_is_cut_is_sent_once_more_and_no_job_is_made_of_a_part(cloud: Cloud, percent: int) -> None:
    operation = "put" if cloud.place == "together" else "upload"
    cloud.box.break_({"fault": "cut_upload", "percent": percent, "times": 1, "on": [operation]})
    prepared = cloud.prepared()
    cloud.dispatch.submit(prepared)
    service: Any = cloud.box.services[cloud.provider.name]
    (job,) = service.jobs.all()
    (attempt,) = cloud.dispatch.journal.attempts(prepared.run_id)
    files = service.files
    file = (files.find if cloud.place == "together" else files.get)(job.request["training_file"])
    assert (file.size, file.sha256) == (attempt.files[0]["bytes"], attempt.files[0]["sha256"])
    sent = [entry for entry in cloud.box.requests() if entry["operation"] == operation]
    assert len(sent) == (1 if percent == 100 else 2)  # whole, only its answer was lost


CREATE = {
    400: errors.JobInvalid,
    401: errors.AuthFailed,
    402: errors.QuotaExceeded,
    403: errors.NotEligible,
    404: errors.ProviderRefused,
    409: errors.ProviderRefused,
    422: errors.JobInvalid,
    429: errors.CapacityUnavailable,
    500: errors.OutcomeUnknown,
    503: errors.OutcomeUnknown,
}
READ = {**CREATE, 429: errors.Unavailable, 500: errors.Unavailable, 503: errors.Unavailable}


def test_each_status_of_a_create_is_an_error_by_what_to_do_next(cloud: Cloud) -> None:
    for status, kind in CREATE.items():
        cloud.box.mend()
        cloud.box.break_({"fault": "storm", "on": ["create"], "status": status, "retry_after": "seconds", "seconds": 7})
        before = len(cloud.sent())
        with pytest.raises(errors.AnyDPOError) as caught:
            cloud.by_hand()
        assert type(caught.value) is kind, status
        assert caught.value.provider == cloud.provider.name
        assert len(cloud.sent()) == before + 1
        if status == 429:
            assert caught.value.retry_after == 7
    assert cloud.made() == 0


def test_each_status_of_a_read_is_an_error_by_what_to_do_next(cloud: Cloud) -> None:
    ref = cloud.by_hand()
    for status, kind in READ.items():
        for word, seconds in (("seconds", 9.0), ("nonsense", None)):
            cloud.box.mend()
            cloud.box.break_(
                {"fault": "storm", "on": ["retrieve"], "status": status, "retry_after": word, "seconds": 9}
            )
            before = len(cloud.sent("retrieve"))
            with pytest.raises(errors.AnyDPOError) as caught:
                cloud.provider.poll(ref)
            assert type(caught.value) is kind, status
            assert len(cloud.sent("retrieve")) == before + 1
            if kind is errors.Unavailable:
                assert caught.value.retry_after == seconds


def test_an_account_that_may_not_is_told_what_it_can_do(cloud: Cloud) -> None:
    cloud.box.break_({"fault": "not_eligible"})
    with pytest.raises(errors.NotEligible) as caught:
        cloud.by_hand()
    assert caught.value.failover
    assert caught.value.hint


def test_a_quota_that_is_used_up_is_no_capacity(cloud: Cloud) -> None:
    cloud.box.break_({"fault": "insufficient_quota"})
    with pytest.raises(errors.QuotaExceeded):
        cloud.by_hand()
    assert cloud.made() == 0


def test_an_unknown_status_is_never_an_end(cloud: Cloud) -> None:
    ref = cloud.by_hand()
    cloud.box.break_({"fault": "unknown_status", "word": "succeeding"})
    poll = cloud.provider.poll(ref)
    assert poll.state is State.RUNNING
    assert any("'succeeding'" in event.text for event in poll.events)
    assert any("'succeeding'" in text for text in cloud.provider.result(ref).warnings)


def test_screened_data_is_its_own_error_with_advice(cloud: Cloud) -> None:
    words = "The provided training data failed RAI checks for harm types: [hate_fairness, violence]."
    cloud.box.break_({"fault": "job_fails", "code": "content_filter", "message": words})
    ref = cloud.by_hand()
    assert cloud.ended(ref) is State.FAILED
    error = cloud.provider.result(ref).error
    assert error is not None
    assert (error.code, "harm types" in error.message) == ("safety_refused", True)
    assert error.hint is not None
    assert "local" in error.hint


def test_the_same_file_is_one_file_for_another_job(cloud: Cloud) -> None:
    cloud.by_hand()
    uploads = len(cloud.sent("upload"))
    puts = len(cloud.box.requests("storage", "put"))
    cloud.by_hand(key="anydpo-ffffffffffffffffffffffff", epochs=2)
    assert len(cloud.box.requests("storage", "put")) == puts
    assert cloud.place == "together" or len(cloud.sent("upload")) == uploads
    assert cloud.made() == 2


def test_every_job_of_ours_is_listed_with_its_key(cloud: Cloud) -> None:
    ref = cloud.by_hand()
    assert cloud.provider.found() == (("anydpo-0123456789abcdef01234567", JobRef(id=ref.id, place=ref.place)),)


def test_start_from_takes_the_places_own_ids_alone(cloud: Cloud) -> None:
    first = cloud.finished()
    body_at = len(cloud.bodies())
    assert first.model.tuned
    cloud.finished(start_from=first.model.tuned)
    body = cloud.bodies()[body_at]
    assert first.model.tuned in (body.get("model"), body.get("from_checkpoint"))
    problems = anydpo.check(a_job(start_from="some-run"), cloud.place).problems
    assert [(p.field, "fetch" in (p.hint or "")) for p in problems] == [("start_from", True)]


def test_start_from_a_run_is_what_its_place_calls_the_model_that_it_left(cloud: Cloud) -> None:
    first = cloud.finished(save_steps=1) if cloud.place == "together" else cloud.finished()
    assert first.model.tuned
    kept = {artifact.step: artifact.path for artifact in first.artifacts if artifact.kind == "checkpoint"}
    step, checkpoint = next((step, path) for step, path in kept.items() if step)
    for given, meant in ((first.run, first.model.tuned), (f"{first.run[:8]}@{step}", checkpoint)):
        at = len(cloud.bodies())
        second = cloud.finished(start_from=given, seed=7)
        assert second.state is State.SUCCEEDED
        assert second.job["start_from"] == given
        body = cloud.bodies()[at]
        assert body.get("from_checkpoint", body.get("model")) == meant
        if at == 1:  # the same run by its beginning, or by its name, is the same job
            assert cloud.prepared(start_from=first.run[:7], seed=7).run_id == second.run


def test_start_from_a_run_that_cannot_be_gone_on_from_says_what_to_do(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    def against(place: str, start: str) -> list[tuple[str, str, str]]:
        found = anydpo.check(a_job(start_from=start), place).problems
        return [(p.code, p.message, p.hint or "") for p in found if p.field == "start_from"]

    live = cloud.submit()
    ((code, said, hint),) = against(cloud.place, live)
    assert (code, hint) == ("no_start", f"anydpo wait {live}")
    for _ in cloud.dispatch.watch(live):
        pass
    assert against(cloud.place, live) == []
    ((code, said, _),) = against(cloud.place, f"{live}@999")
    assert (code, "no checkpoint at step 999" in said) == ("no_start", True)
    for other in ({"openai", "azure", "together"} - {cloud.place}) | {"local"}:
        ((code, said, hint),) = against(other, live)
        assert (code, f"anydpo fetch {live}" in hint) == ("other_place", True)
    for name in ("OPENAI_BASE_URL", "AZURE_OPENAI_ENDPOINT", "TOGETHER_BASE_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/v1")
    ((code, said, hint),) = against(cloud.place, live)
    assert (code, f"anydpo fetch {live}" in hint) == ("other_target", True)


KEYS = ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "TOGETHER_API_KEY")
CANARY = "canary-7f3a9b1c5d"


def test_a_secret_is_in_no_error_repr_plan_or_event(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from anydpo.registry import provider

    caplog.set_level("DEBUG")
    for name in (*KEYS, "WANDB_API_KEY", "HF_TOKEN", "AZURE_OPENAI_AD_TOKEN"):
        monkeypatch.setenv(name, CANARY)
    cloud.provider = provider_of_now = provider(cloud.provider.name).__class__()
    told = [repr(cloud.prepared().plan), cloud.prepared().plan.model_dump_json(), repr(provider_of_now)]
    for status in (400, 401, 403, 404, 429, 500, 503):
        cloud.box.mend()
        cloud.box.break_({"fault": "storm", "on": ["*"], "status": status})
        for verb in (lambda: cloud.by_hand(), lambda: cloud.provider.find("anydpo-1"), cloud.provider.diagnose):
            try:
                told.append(repr(verb()))
            except errors.AnyDPOError as exc:
                told += ["".join(traceback.format_exception(exc)), repr(exc), json.dumps(exc.to_dict())]
    cloud.box.mend()
    told += [record.getMessage() for record in caplog.records if record.name.startswith("anydpo")]
    kept = [path.read_bytes() for path in cloud.home.rglob("*") if path.is_file()]
    assert sum(CANARY in text for text in told) + sum(CANARY.encode() in data for data in kept) == 0


def test_without_a_key_a_plan_is_made_and_a_verb_says_which_variable(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anydpo.registry import provider

    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    fresh: Any = provider(cloud.provider.name).__class__()
    assert anydpo.check(a_job(), cloud.place).ok
    with pytest.raises(errors.AuthFailed, match=r"[A-Z_]+_API_KEY is not set"):
        fresh.find("anydpo-1")
    assert next(one.ok for one in fresh.diagnose()) is None


def test_doctor_sees_what_works(cloud: Cloud) -> None:
    found = {one.what: one for one in cloud.provider.diagnose()}
    assert found["credentials"].ok
    assert found["service"].ok
    cloud.box.break_({"fault": "storm", "on": ["*"], "status": 401})
    assert not {one.what: one for one in cloud.provider.diagnose()}["service"].ok


def test_progress_is_told_while_a_file_is_sent(cloud: Cloud) -> None:
    from anydpo.provider import DataFile, upload_progress

    seen: list[tuple[DataFile, int]] = []
    token = upload_progress.set(lambda file, at: seen.append((file, at)))
    try:
        cloud.by_hand()
    finally:
        upload_progress.reset(token)
    places = [at for _, at in seen]
    assert places == sorted(places)
    assert places[-1] == seen[-1][0].bytes


def test_every_placeholder_is_filled_before_anything_is_sent(cloud: Cloud) -> None:
    plan = cloud.prepared().plan
    with pytest.raises(errors.JobInvalid, match="training_file"):
        cloud.provider.submit(plan, (), "anydpo-0123456789abcdef01234567")
    assert cloud.sent() == []
    assert not re.search(r"\$\{", json.dumps(cloud.bodies()))


def test_a_key_that_a_service_repeats_is_masked_and_one_in_the_address_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = {"error": {"message": f"Incorrect API key provided: {CANARY}.", "code": "invalid_api_key"}}
    assert CANARY not in repr(answer_of(400, body, {}, [None, CANARY]))
    for name, place in (
        ("OPENAI_BASE_URL", "openai"),
        ("AZURE_OPENAI_ENDPOINT", "azure"),
        ("TOGETHER_BASE_URL", "together"),
    ):
        monkeypatch.setenv(name, f"http://user:{CANARY}@127.0.0.1:9/v1?key={CANARY}")
        assert CANARY not in anydpo.check(a_job(), place).model_dump_json()


WRITES = frozenset({"create", "upload", "put", "preprocess"})


def carry_out(cloud: Cloud, seed: int) -> str:
    """Submit a job and watch it to its end, as often as it takes; return its run."""
    prepared, resubmit = cloud.prepared(seed=seed), False
    while True:
        try:
            run = cloud.dispatch.submit(prepared, resubmit=resubmit).run
            break
        except errors.OutcomeUnknown:  # a 503 to the create: it was looked for and is not there
            resubmit = True
        except (errors.CapacityUnavailable, errors.Unavailable) as exc:
            cloud.clock.sleep(exc.retry_after or 1)
    for _ in cloud.dispatch.watch(run):
        pass
    assert cloud.dispatch.result(run).state is State.SUCCEEDED
    return run


@pytest.mark.timeout(3600)  # at full count, on a busy machine
def test_many_jobs_in_a_storm_are_each_made_once_and_never_asked_earlier_than_told(
    cloud: Cloud, full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 % of all requests meet 429 with `Retry-After: 5`, 20 % of the others 503; every job goes on to its end.

    A read is any request that is no create and no part of an upload. The ideal is what the same jobs read in fair
    weather, one read more for each that was struck, and one look at the list for each create that was.
    """
    count = 200 if full else 4
    storm = [
        {"fault": "storm", "on": ["*"], "percent": 30, "status": 429, "retry_after": "seconds", "seconds": 5},
        {"fault": "storm", "on": ["*"], "percent": 20, "status": 503},
    ]
    fair = fair_weather(cloud.place, tmp_path / "fair", monkeypatch, count)
    for name, value in cloud.box.env.items():
        monkeypatch.setenv(name, value)
    cloud.box.break_(*storm)
    sleep = cloud.clock.sleep

    def both(seconds: float) -> None:  # the service's clock goes with ours, so that its log tells when it was asked
        sleep(seconds)
        cloud.box.world.clock.advance(seconds)

    monkeypatch.setattr(cloud.clock, "sleep", both)
    runs, log = set(), list[dict[str, Any]]()
    for seed in range(count):
        runs.add(carry_out(cloud, seed))
        log += cloud.box.requests()
        cloud.box.world.requests.clear()
    service: Any = cloud.box.services[cloud.provider.name]
    seeds = [job.request.get("seed", job.request.get("random_seed")) for job in service.jobs.all()]
    assert sorted(seeds) == list(range(count))
    assert len(runs) == count
    waits = [after["at"] - told["at"] for told, after in pairwise(log) if told["status"] == 429]
    assert min(waits) >= 5
    struck = [entry for entry in log if entry["faults"]]
    reads = sum(entry["operation"] not in WRITES for entry in log)
    again = sum(entry["operation"] not in WRITES for entry in struck)
    looks = sum(entry["operation"] == "create" and entry["status"] == 503 for entry in struck)
    ideal = fair + again + looks
    assert reads <= 1.3 * ideal
    said = f"{count} jobs, {len(log)} requests, {len(struck)} struck; after a 429 never before {min(waits):.1f} s"
    print(f"\n{cloud.place}: {said}; {reads} reads, ideal {ideal}: {reads / ideal:.3f}; 0 duplicates")  # noqa: T201


def fair_weather(place: str, folder: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> int:
    """Return how many reads so many jobs take where nothing goes wrong: every job after the first, the same number.

    Where a list is not filtered (Azure), further pages of it are no part of the ideal: they count against us.
    """
    reads: list[int] = []
    for calm in a_cloud(place, folder, monkeypatch):
        for seed in range(3):
            carry_out(calm, seed)
            reads.append(sum(entry["operation"] not in WRITES for entry in calm.box.requests()))
            calm.box.world.requests.clear()
    first, second, third = reads
    assert second == third
    return first + (count - 1) * second


def test_one_file_of_real_preferences_goes_everywhere(cloud: Cloud, hh: Path, tmp_path: Path) -> None:
    (tmp_path / "hh.toml").write_text(
        f"""
        name = "harmless"
        data = {{ path = "{hh}/harmless-base-train.jsonl.gz", max_pairs = 60 }}
        validation = 0.2
        batch_size = 8
        [model]
        openai = "gpt-4.1-mini-2025-04-14"
        azure = "gpt-4.1-mini-2025-04-14"
        default = "Qwen/Qwen3-8B"
        [method]
        beta = 0.2
        """
    )
    run = cloud.dispatch.submit(prepare(PreferenceJob.from_toml(tmp_path / "hh.toml"), cloud.place).or_raise()).run
    for _ in cloud.dispatch.watch(run):
        pass
    result = cloud.dispatch.result(run)
    assert result.state is State.SUCCEEDED
    assert result.method.effective["method"]["beta"] == 0.2
    assert (result.data.train_pairs or 0) + (result.data.validation_pairs or 0) == 60
    assert result.data.fingerprint
