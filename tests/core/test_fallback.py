"""A run that may go on elsewhere: for the place's reasons only, never with a job left running behind."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import anydpo
from anydpo.chain import Chain, Terms, chain_of
from anydpo.dispatch import Dispatch
from anydpo.errors import (
    AuthFailed,
    CapExceeded,
    Invalid,
    JobInvalid,
    OutcomeUnknown,
    ProviderRefused,
    QuotaExceeded,
    RunFailed,
    SafetyRefused,
)
from anydpo.fanout import at_once
from anydpo.home import home
from anydpo.journal import Journal, journal_of
from anydpo.result import State
from anydpo.testing.clock import ManualClock
from tests.conformance.helpers import memory_job
from tests.core.places import NAMES, Places


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def places(clock: ManualClock) -> Iterator[Places]:
    made = Places(clock)
    with made.known():
        yield made


@pytest.fixture
def at(tmp_path: Path, clock: ManualClock) -> Dispatch:
    return Dispatch(Journal(tmp_path / "journal"), clock)


def chain(terms: Terms | None = None, **fields: Any) -> Chain:
    return chain_of(memory_job(**fields), NAMES, terms).or_raise()


def tried(at: Dispatch, run: str) -> list[tuple[str, str | None]]:
    return [(each.place, each.error.code if each.error else None) for each in at.attempts(run)]


@pytest.mark.parametrize("word", ["quota", "capacity", "retired"])
def test_a_place_that_says_no_is_followed_by_the_next(at: Dispatch, places: Places, word: str) -> None:
    places.one.script("create", word)
    sent = at.submit(chain())
    assert sent.created
    assert places.made() == [0, 1, 0]
    assert sent.remaining == ("three, if need be",)
    list(at.watch(sent.run))
    result = at.result(sent.run)
    assert (result.state, result.place) == (State.SUCCEEDED, "two")
    assert at.journal.run(sent.run).place == "two"
    assert [attempt.place for attempt in result.attempts] == ["one", "two"]
    assert result.attempts[0].error is not None
    assert result.attempts[0].error.message == f"the service says: {word}"
    assert result.attempts[1].error is None


@pytest.mark.parametrize(
    ("word", "kind"), [("refuse", ProviderRefused), ("auth", AuthFailed), ("safety", SafetyRefused)]
)
def test_other_errors_end_the_run(at: Dispatch, places: Places, word: str, kind: type[Exception]) -> None:
    places.one.script("create", word)
    with pytest.raises(kind):
        at.submit(chain())
    assert places.made() == [0, 0, 0]


def test_a_safety_screening_counts_where_that_is_asked_for(at: Dispatch, places: Places) -> None:
    places.one.script("create", "safety")
    at.submit(chain(Terms(on_safety=True)))
    assert places.made() == [0, 1, 0]


def test_an_unknown_outcome_is_never_followed_by_another_place(
    at: Dispatch, places: Places, clock: ManualClock
) -> None:
    places.one.script("create", "no_answer")
    with pytest.raises(OutcomeUnknown):
        at.submit(chain())
    clock.sleep(1000)
    with pytest.raises(OutcomeUnknown):
        at.submit(chain())
    list(at.watch(chain().run_id))
    assert places.made() == [0, 0, 0]
    assert at.submit(chain(), resubmit=True).created
    assert places.made() == [1, 0, 0]  # the user knows that there is none: where it was meant to be


def test_a_lost_reply_is_found_and_nothing_is_sent_elsewhere(at: Dispatch, places: Places) -> None:
    places.one.script("create", "lost_reply")
    at.submit(chain())
    assert places.made() == [1, 0, 0]


def test_a_run_that_failed_for_the_providers_reasons_goes_on(at: Dispatch, places: Places) -> None:
    places.one.set(ends="failed", code="provider_fault")
    sent = at.submit(chain())
    states = [event.state for event in at.watch(sent.run) if event.kind == "state"]
    assert State.FAILED not in states
    assert states[-1] is State.SUCCEEDED
    assert tried(at, sent.run) == [("one", "provider_fault"), ("two", None)]
    assert places.states() == [["failed"], ["succeeded"], []]


def test_of_many_who_watch_one_takes_the_next_step(at: Dispatch, places: Places) -> None:
    places.one.set(ends="failed", code="provider_fault", queue=0.0, seconds=0.0)
    places.two.set(queue=0.0, seconds=0.0)
    sent = at.submit(chain())
    watchers = [Dispatch(Journal(at.journal.home), ManualClock(2e9)) for _ in range(4)]  # a process each, as it were
    seen: list[Any] = at_once([partial(list, watcher.watch(sent.run)) for watcher in watchers])
    assert places.made() == [1, 1, 0]
    assert not [found for found in seen if isinstance(found, Exception)]
    assert at.result(sent.run).state is State.SUCCEEDED


def test_a_run_that_failed_for_the_jobs_reasons_does_not(at: Dispatch, places: Places) -> None:
    places.one.set(ends="failed", code="user_error")
    sent = at.submit(chain())
    list(at.watch(sent.run))
    assert at.result(sent.run).state is State.FAILED
    assert places.made() == [1, 0, 0]
    with pytest.raises(RunFailed, match="again"):
        at.submit(chain())
    assert at.submit(chain(), again=True).created
    assert places.made() == [2, 0, 0]  # from the first place


def test_a_user_who_cancels_is_not_sent_elsewhere(at: Dispatch, places: Places) -> None:
    sent = at.submit(chain())
    assert at.cancel(sent.run) is State.CANCELLED
    list(at.watch(sent.run))
    assert places.made() == [1, 0, 0]
    assert at.result(sent.run).state is State.CANCELLED


def test_cancelled_between_two_places(at: Dispatch, places: Places) -> None:
    places.one.set(ends="failed", code="provider_fault")
    sent = at.submit(chain())
    places.one.end(places.one.jobs()[0]["id"], State.FAILED)
    assert at.refresh(sent.run) is State.PENDING
    assert at.cancel(sent.run) is State.CANCELLED
    list(at.watch(sent.run))
    assert places.made() == [1, 0, 0]


def test_a_queue_that_takes_too_long_is_left_only_when_the_job_is_cancelled(
    at: Dispatch, places: Places, clock: ManualClock
) -> None:
    places.one.set(queue=1e9)
    sent = at.submit(chain(Terms(max_wait=60)))
    before = clock.now()
    list(at.watch(sent.run))
    assert 60 < clock.now() - before < 70
    assert tried(at, sent.run) == [("one", "waited_too_long"), ("two", None)]
    assert places.states() == [["cancelled"], ["succeeded"], []]
    assert places.one.requests("cancel") == 1


def test_the_last_place_is_never_left(at: Dispatch, places: Places, clock: ManualClock) -> None:
    places.one.script("create", "quota")
    places.two.script("create", "quota")
    places.three.set(queue=600)
    sent = at.submit(chain(Terms(max_wait=60)))
    list(at.watch(sent.run))
    assert places.states() == [[], [], ["succeeded"]]


def test_a_job_that_ends_before_it_is_cancelled_counts_as_what_it_became(
    at: Dispatch, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    places.one.set(queue=1e9)
    monkeypatch.setattr(
        places.providers[0], "cancel", lambda ref: places.one.end(ref.id, State.SUCCEEDED), raising=True
    )
    sent = at.submit(chain(Terms(max_wait=60)))
    list(at.watch(sent.run))
    assert places.states() == [["succeeded"], [], []]
    assert at.result(sent.run).state is State.SUCCEEDED


def test_a_service_that_does_not_answer_is_given_as_long_as_the_user_allows(
    at: Dispatch, places: Places, clock: ManualClock
) -> None:
    places.one.script("find", *["unavailable"] * 1000)
    before = clock.now()
    sent = at.submit(chain(Terms(max_wait=30)))
    assert clock.now() - before <= 30
    assert tried(at, sent.run) == [("one", "unavailable"), ("two", None)]


def test_when_every_place_has_said_no_the_last_error_is_raised_and_asking_again_begins_anew(
    at: Dispatch, places: Places
) -> None:
    for service in (places.one, places.two, places.three):
        service.script("create", "quota")
    with pytest.raises(QuotaExceeded):
        at.submit(chain())
    run = chain().run_id
    assert at.journal.run(run).state is State.FAILED
    assert tried(at, run) == [(name, "quota_exceeded") for name in NAMES]
    assert at.submit(chain()).created
    assert places.made() == [1, 0, 0]
    assert tried(at, run)[-1] == ("one", None)


def test_the_same_places_are_the_same_run_and_others_are_another(at: Dispatch, places: Places) -> None:
    first = at.submit(chain())
    again = at.submit(chain())
    assert (again.run, again.created) == (first.run, False)
    other = chain_of(memory_job(), ["two", "one"])
    assert other.run_id != first.run
    alone = chain_of(memory_job(), ["one"])
    assert alone.run_id == alone.prepared[0].run_id  # a list of one place is that place


def test_two_runs_that_want_the_same_job_share_it(at: Dispatch, places: Places) -> None:
    """Whether it is asked for alone or as a fallback: one place is paid once for one job."""
    from anydpo.plan import prepare

    blind = "one/blind"  # cannot be searched: only our own journal knows
    alone = at.submit(prepare(memory_job(), blind))
    places.two.script("create", "quota")
    shared = at.submit(chain_of(memory_job(), ["two", blind]))
    assert not shared.created
    assert shared.run != alone.run
    assert places.made() == [1, 0, 0]


def test_a_place_without_a_model_is_passed_over_with_the_reason(at: Dispatch, places: Places) -> None:
    sent = at.submit(chain(model={"two": "m", "three": "m"}))
    assert places.made() == [0, 1, 0]
    list(at.watch(sent.run))
    first, second = at.result(sent.run).attempts
    assert first.error is not None
    assert (first.place, first.error.code) == ("one", "no_model_here")
    assert (second.place, second.error) == ("two", None)


def test_no_place_has_a_model(places: Places) -> None:
    with pytest.raises(JobInvalid, match="one: the table names no model"):
        chain(model={"four": "m"})


def test_a_problem_of_a_later_place_is_told_before_anything_is_sent(places: Places) -> None:
    with pytest.raises(JobInvalid, match="no such option"):
        chain(options={"three": {"prise": 1}})


def test_a_place_may_stand_there_once(places: Places) -> None:
    with pytest.raises(Invalid, match="one is there twice"):
        chain_of(memory_job(), ["one", "two", "one"])


def test_stages_begin_anew_at_the_next_place(at: Dispatch, places: Places) -> None:
    places.one.set(seconds=0.0)
    sent = at.submit(chain(sft={"data": "chosen"}))
    places.one.script("create", "quota")
    list(at.watch(sent.run))
    assert places.made() == [1, 2, 0]  # SFT, then DPO was refused; both again at the next
    result = at.result(sent.run)
    assert result.state is State.SUCCEEDED
    assert [(stage.stage, stage.state) for stage in result.stages] == [("sft", "succeeded"), ("dpo", "succeeded")]
    assert tried(at, sent.run) == [("one", "quota_exceeded"), ("two", None)]


def test_a_cap_counts_what_was_billed_before(places: Places, clock: ManualClock) -> None:
    """Each place costs 0.008, a job that has run is billed 0.50: then the second is too dear and is passed over."""
    places.one.set(ends="failed", code="provider_fault", queue=0.0, seconds=0.0)
    job = memory_job(options={"three": {"price": 0}})
    with pytest.raises(CapExceeded, match="nothing was sent"):
        anydpo.submit(job, fallback=list(NAMES), max_cost_usd=0.001)
    assert places.made() == [0, 0, 0]
    run = anydpo.submit(job, fallback=list(NAMES), max_cost_usd=0.505)
    list(Dispatch(journal_of(home()), clock).watch(run.id))
    codes = [(each.place, each.error.code if each.error else None) for each in run.attempts]
    assert codes == [("one", "provider_fault"), ("two", "cap_exceeded"), ("three", None)]
    assert places.made() == [1, 0, 1]


def test_an_unknown_price_under_a_cap_refuses(places: Places) -> None:
    job = memory_job(options={"three": {"price": "unknown"}})
    with pytest.raises(CapExceeded, match="not known"):
        anydpo.submit(job, fallback=list(NAMES), max_cost_usd=5)
    assert places.made() == [0, 0, 0]
    assert anydpo.submit(job, fallback=list(NAMES), max_cost_usd=5, allow_unknown_price=True).created


def test_submit_takes_a_first_place_and_a_fallback(places: Places) -> None:
    places.one.script("create", "quota")
    run = anydpo.submit(memory_job(), "one", fallback=["two"])
    assert (run.place, run.remaining) == ("two", ())
    assert [attempt.place for attempt in run.attempts] == ["one", "two"]
    with pytest.raises(Invalid, match="after at most one first place"):
        anydpo.submit(memory_job(), ["one", "two"], fallback=["three"])  # type: ignore[call-overload]
    with pytest.raises(Invalid, match="no place was named"):
        anydpo.submit(memory_job())  # type: ignore[call-overload]


def test_a_rebuilt_journal_still_knows_where_to_go_on(at: Dispatch, places: Places) -> None:
    from anydpo.rebuild import rebuild

    at.submit(chain(seed=1))
    sent = at.submit(chain())
    folder = at.journal.home
    at.journal.close()
    db = sqlite3.connect(folder / "journal.db")
    db.execute("UPDATE attempt SET place = 'elsewhere' WHERE run != ?", (sent.run,))  # without its checksum
    db.commit()
    db.close()
    rebuild(folder, [])
    again = Dispatch(Journal(folder), at.clock)
    places.one.end(places.one.jobs()[-1]["id"], State.FAILED)
    places.one.set(code="provider_fault")
    list(again.watch(sent.run))
    assert again.result(sent.run).place == "two"
