"""What dispatch promises beyond one job at one place: stages, files that a provider examines, awaitable verbs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

import anydpo
from anydpo import aio
from anydpo.clock import Reads, part, retry_after
from anydpo.dispatch import Dispatch
from anydpo.errors import CapExceeded, DataInvalid, QuotaExceeded, RunFailed, Unavailable
from anydpo.journal import Journal
from anydpo.plan import prepare
from anydpo.registry import using
from anydpo.result import State
from anydpo.testing.clock import ManualClock
from anydpo.testing.memory import MemoryProvider
from anydpo.testing.service import Service
from tests.conformance.helpers import memory_job


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def service(clock: ManualClock) -> Iterator[Service]:
    made = Service(clock=clock)
    with using(MemoryProvider(made)):
        yield made


@pytest.fixture
def at(tmp_path: Path, clock: ManualClock) -> Dispatch:
    return Dispatch(Journal(tmp_path / "journal"), clock)


def test_two_stages_are_two_jobs_and_one_run(at: Dispatch, service: Service) -> None:
    sent = at.submit(prepare(memory_job(sft={"data": "chosen"}), "memory"))
    assert sent.remaining == ("the dpo stage",)
    states = [event.state for event in at.watch(sent.run) if event.kind == "state"]
    assert states[-1] is State.SUCCEEDED
    assert State.SUCCEEDED not in states[:-1]  # the first stage's success is not the run's
    first, second = service.jobs()
    assert second["body"]["model"] == f"tuned:{first['id']}"
    result = at.result(sent.run)
    assert [(stage.stage, stage.provider_job_id) for stage in result.stages] == [
        ("sft", first["id"]),
        ("dpo", second["id"]),
    ]
    assert result.model.tuned == f"tuned:{second['id']}"
    assert service.requests("stage") == 2  # pairs and chats, each once for both stages


def test_a_failed_first_stage_ends_the_run(at: Dispatch, service: Service) -> None:
    service.set(ends="failed")
    sent = at.submit(prepare(memory_job(sft={"data": "chosen"}), "memory"))
    list(at.watch(sent.run))
    assert at.result(sent.run).state is State.FAILED
    assert len(service.jobs()) == 1
    with pytest.raises(RunFailed, match="again"):
        at.submit(prepare(memory_job(sft={"data": "chosen"}), "memory"))


def test_a_refused_second_stage_is_tried_again_without_the_first(at: Dispatch, service: Service) -> None:
    job = prepare(memory_job(sft={"data": "chosen"}), "memory")
    sent = at.submit(job)
    service.end(service.jobs()[0]["id"], State.SUCCEEDED)
    service.script("create", "quota")
    with pytest.raises(QuotaExceeded):
        list(at.watch(sent.run))
    assert at.result(sent.run).state is State.FAILED
    assert at.submit(job).created
    list(at.watch(sent.run))
    first, second = service.jobs()
    assert second["body"]["model"] == f"tuned:{first['id']}"
    result = at.result(sent.run)
    assert [(stage.stage, stage.state) for stage in result.stages] == [
        ("sft", State.SUCCEEDED),
        ("dpo", State.SUCCEEDED),
    ]
    assert [attempt.error.code if attempt.error else None for attempt in result.attempts] == ["quota_exceeded", None]


def test_cancelled_between_two_stages(at: Dispatch, service: Service) -> None:
    sent = at.submit(prepare(memory_job(sft={"data": "chosen"}), "memory"))
    service.end(service.jobs()[0]["id"], State.SUCCEEDED)
    at.refresh(sent.run)
    assert at.cancel(sent.run) is State.CANCELLED
    list(at.watch(sent.run))
    assert len(service.jobs()) == 1


def test_a_file_is_awaited_and_its_rows_are_named_as_the_user_knows_them(
    at: Dispatch, service: Service, tmp_path: Path
) -> None:
    path = tmp_path / "prefs.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b"}\n' + '{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 3)
    service.script("examine", "pending", "pending", "bad_rows")
    with pytest.raises(DataInvalid, match=r"prefs\.jsonl:3: the answer is too long"):  # line 2 of what was sent
        at.submit(prepare(memory_job(data=str(path)), "memory"))
    assert service.requests("examine") == 3
    assert service.requests("create") == 0
    assert at.submit(prepare(memory_job(data=str(path)), "memory")).created


def test_an_upload_that_broke_is_made_once_more(at: Dispatch, service: Service, clock: ManualClock) -> None:
    service.script("stage", "unavailable:7")
    assert at.submit(prepare(memory_job(), "memory")).created
    assert service.requests("stage") == 2
    assert clock.slept >= 7
    service.script("stage", "unavailable", "unavailable")
    job = memory_job(seed=1)
    with pytest.raises(Unavailable):
        at.submit(prepare(job, "memory"))
    assert at.submit(prepare(job, "memory")).created  # nothing was decided: the same attempt goes on
    assert len(at.journal.attempts(prepare(job, "memory").run_id)) == 1


def test_upload_progress_is_told(at: Dispatch, service: Service) -> None:
    from anydpo.provider import upload_progress

    told: list[int] = []
    token = upload_progress.set(lambda _file, done: told.append(done))
    try:
        at.submit(prepare(memory_job(), "memory"))
    finally:
        upload_progress.reset(token)
    assert told[-1] == at.journal.attempts(at.journal.runs()[0].id)[0].files[0]["bytes"]


def test_an_unknown_status_word_is_not_success(at: Dispatch, service: Service) -> None:
    service.set(word="compacting")
    run = at.submit(prepare(memory_job(), "memory")).run
    texts = [event.text for event in at.events(run)]
    assert any("compacting" in text for text in texts)
    assert at.journal.run(run).state is State.RUNNING


def test_reads_have_a_budget_and_full_jitter(clock: ManualClock) -> None:
    calls = 0

    def ask() -> None:
        nonlocal calls
        calls += 1
        raise Unavailable("503")

    with pytest.raises(Unavailable):
        Reads(clock, budget=100, draw=lambda: 1.0)(ask)
    assert clock.slept == 0.5 + 1 + 2 + 4 + 8 + 16 + 32
    assert calls == 8


def test_a_part_of_a_read_that_was_answered_is_not_asked_for_again() -> None:
    asked: list[str] = []

    def ask(name: str, fails: int) -> str:
        asked.append(name)
        if asked.count(name) <= fails:
            raise Unavailable("busy")
        return f"{name}{asked.count(name)}"

    def whole() -> list[str]:
        return [
            part("job", lambda: ask("job", 0)),
            part("log", lambda: ask("log", 2)),
            part("end", lambda: ask("end", 1)),
        ]

    reads = Reads(ManualClock(), draw=lambda: 1.0)
    assert reads(whole) == ["job1", "log3", "end2"]
    assert asked == ["job", "log", "log", "log", "end", "end"]
    assert reads(whole) == ["job2", "log4", "end3"]  # another read begins anew
    assert whole() == ["job3", "log5", "end4"]  # as does whoever asks without the core


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("120", 120.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        ("soon", None),
        ("nan", None),
        ("1e99", 86_400.0),
        ("Fri, 15 Jan 2027 08:01:00 GMT", 60.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
    ],
)
def test_retry_after_in_seconds_or_as_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, 1_800_000_000.0) == seconds  # 2027-01-15 08:00:00 UTC


def test_a_cap_counts_all_places_of_a_call(service: Service) -> None:
    with pytest.raises(CapExceeded, match="nothing was sent"):
        anydpo.submit(memory_job(), ["memory", "memory/blind"], max_cost_usd=0.01)
    assert service.requests("create") == 0
    runs = anydpo.submit(memory_job(), ["memory", "memory/blind"], max_cost_usd=0.02)
    assert [run.created for run in runs] == [True, True]
    again = anydpo.submit(memory_job(), ["memory", "memory/blind"], max_cost_usd=0.0)  # there already: costs nothing
    assert [run.id for run in again] == [run.id for run in runs]


def test_secrets_in_options_do_not_reach_the_journal(at: Dispatch, service: Service) -> None:
    job = memory_job(
        options={"memory": {"tier": "x"}, "other": {"wandb_api_key": "canary-1", "list": [{"token": "canary-2"}]}}
    )
    at.submit(prepare(job, "memory"))
    assert "canary" not in (
        at.journal.path.read_bytes() + at.journal.path.with_name("journal.db-wal").read_bytes()
    ).decode("latin-1")


def test_the_same_verbs_awaitable(service: Service, clock: ManualClock) -> None:
    async def day() -> anydpo.Result:
        pairs = await aio.load([{"prompt": "a", "chosen": "b", "rejected": "c"}])
        job = memory_job(data=pairs)
        assert (await aio.check(job, "memory")).ok
        assert (await aio.quote(job, "memory"))["memory"] is not None
        run = await aio.submit(job, "memory")
        for made in service.jobs():
            service.end(made["id"], State.SUCCEEDED)
        seen = [event async for event in run.watch()]
        assert seen[-1].state is State.SUCCEEDED
        assert [one.id for one in await aio.runs()] == [run.id]
        return await run.wait()

    assert asyncio.run(day()).state is State.SUCCEEDED


def test_a_notebook_shows_job_run_and_result(service: Service) -> None:
    job = memory_job(name="<b>bold</b>")
    run = anydpo.submit(job, "memory")
    for shown in (job._repr_html_(), run._repr_html_(), run.result()._repr_html_()):
        assert "<table>" in shown
        assert "<b>bold" not in shown
