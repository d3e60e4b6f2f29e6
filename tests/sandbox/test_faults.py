"""Every fault, as the official SDKs meet it, and what the request log says of it."""

from __future__ import annotations

import json
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import together

from anydpo.errors import Invalid
from anydpo.sandbox.server import Sandbox, serve
from tests.sandbox.test_openai import BASE, DPO, send, states
from tests.sandbox.test_together import create as create_together
from tests.sandbox.test_together import send as send_together


def create(client: openai.OpenAI, file: str, **more: Any) -> str:
    return client.fine_tuning.jobs.create(model=BASE, training_file=file, method=DPO, **more).id


def test_a_lost_reply_was_carried_out(box: Sandbox, oai: openai.OpenAI, prefs: Path) -> None:
    file = send(oai, prefs)
    box.break_({"fault": "lost_reply", "times": 1})
    with pytest.raises(openai.APIConnectionError):
        create(oai, file, metadata={"anydpo": "k"})
    (entry,) = box.requests("openai", "create")
    assert (entry["status"], entry["carried_out"], entry["faults"]) == (None, True, ["lost_reply"])
    assert len(oai.fine_tuning.jobs.list(metadata={"anydpo": "k"}).data) == 1


def test_stock_sdks_create_three_jobs_from_lost_replies(
    box: Sandbox, oai: openai.OpenAI, tg: together.Together, prefs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured on the wire independently of this emulator: 3 attempts, none of them with a key."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    file, other = send(oai, prefs), send_together(tg, prefs)
    box.break_({"fault": "lost_reply"})
    with pytest.raises(openai.APIConnectionError):
        create(oai.with_options(max_retries=2), file)
    with pytest.raises(together.APIConnectionError):
        create_together(tg.with_options(max_retries=2), other)
    assert len(box.requests("openai", "create")) == len(box.requests("together", "create")) == 3
    assert box.world.counts() == {"azure": 0, "openai": 3, "together": 3}


@pytest.mark.parametrize("percent", [0, 1, 50, 99, 100])
def test_an_upload_cut_short_leaves_no_file(
    percent: int, box: Sandbox, oai: openai.OpenAI, tg: together.Together, prefs: Path
) -> None:
    """Only at 100 %, where nothing but the answer is lost, the file is there."""
    box.break_({"fault": "cut_upload", "percent": percent, "provider": "openai", "times": 1})
    box.break_({"fault": "cut_upload", "percent": percent, "provider": "storage", "times": 1})
    with pytest.raises(openai.APIConnectionError):
        send(oai, prefs)
    with pytest.raises(httpx.TransportError):
        tg.files.upload(prefs)
    there = 1 if percent == 100 else 0
    assert len(oai.files.list().data) == there
    assert len(tg.files.list().data) == there
    assert [entry["carried_out"] for entry in box.requests("openai", "upload")] == [bool(there)]
    (put,) = box.requests("storage", "put")
    assert put["received"] <= prefs.stat().st_size
    assert not any(path.is_file() for path in (box.world.folder / "openai").rglob("*")) or there
    assert send(oai, prefs)
    assert tg.files.upload(prefs)


def test_storms_carry_nothing_out_and_say_when_to_come_back(box: Sandbox, oai: openai.OpenAI, prefs: Path) -> None:
    file = send(oai, prefs)
    now = time.time()
    for kind in ("seconds", "date", "nonsense"):
        box.break_({"fault": "storm", "on": ["create"], "retry_after": kind, "seconds": 30, "times": 1})
        with pytest.raises(openai.RateLimitError) as caught:
            create(oai, file)
        said = caught.value.response.headers["retry-after"]
        if kind == "date":
            assert 28 <= parsedate_to_datetime(said).timestamp() - now <= 40
        else:
            assert said == ("30" if kind == "seconds" else "in a while")
    box.break_({"fault": "storm", "status": 503, "times": 1})
    with pytest.raises(openai.InternalServerError):
        create(oai, file)
    assert box.world.counts()["openai"] == 0


def test_a_storm_strikes_its_share_and_the_same_requests_again(prefs: Path) -> None:
    script = {
        "seed": 3,
        "faults": [{"fault": "storm", "percent": 30}, {"fault": "storm", "percent": 20, "status": 503}],
    }
    seen = []
    for _ in range(2):
        with (
            serve(trainer="instant", faults=script, providers=["openai"]) as box,
            httpx.Client(trust_env=False, headers={"authorization": "Bearer k"}) as client,
        ):
            seen.append([client.get(f"{box.env['OPENAI_BASE_URL']}/models").status_code for _ in range(400)])
    assert seen[0] == seen[1]
    shares = {status: seen[0].count(status) / 400 for status in (200, 429, 503)}
    assert 0.22 < shares[429] < 0.38
    assert 0.08 < shares[503] < 0.20  # of the 70 % that are left
    assert sum(shares.values()) == 1


def test_late_lists_show_a_new_job_later(box: Sandbox, oai: openai.OpenAI, tg: together.Together, prefs: Path) -> None:
    file, other = send(oai, prefs), send_together(tg, prefs)
    box.break_({"fault": "late_list", "requests": 2, "provider": "openai", "times": 1})
    box.break_({"fault": "late_list", "seconds": 60, "provider": "together", "times": 1})
    job, late = create(oai, file), create_together(tg, other)
    assert [len(oai.fine_tuning.jobs.list().data) for _ in range(3)] == [0, 0, 1]
    assert oai.fine_tuning.jobs.retrieve(job).id == job
    assert tg.fine_tuning.list().data == []
    box.world.clock.advance(61)
    assert [one.id for one in tg.fine_tuning.list().data] == [late]


def test_an_unknown_status_word(box: Sandbox, oai: openai.OpenAI, prefs: Path) -> None:
    job = create(oai, send(oai, prefs))
    box.break_({"fault": "unknown_status", "word": "pondering", "times": 2})
    assert [str(oai.fine_tuning.jobs.retrieve(job).status) for _ in range(3)][:2] == ["pondering", "pondering"]
    assert states(oai, job)[-1] == "succeeded"


def test_half_replies(box: Sandbox, oai: openai.OpenAI, prefs: Path) -> None:
    file = send(oai, prefs)
    box.break_(*({"fault": "half_reply", "shape": shape, "times": 1, "skip": at} for at, shape in
                 enumerate(("no_id", "truncated", "cut"))))  # fmt: skip
    made = oai.fine_tuning.jobs.create(model=BASE, training_file=file, method=DPO)
    assert made.model_extra is not None
    assert not hasattr(made, "id") or made.id is None
    with pytest.raises((json.JSONDecodeError, openai.APIError)):
        create(oai, file)
    with pytest.raises(openai.APIConnectionError):
        create(oai, file)
    assert box.world.counts()["openai"] == 3


def test_a_wrong_hash(box: Sandbox, tg: together.Together, prefs: Path) -> None:
    job = create_together(tg, send_together(tg, prefs))
    while str(tg.fine_tuning.retrieve(job).status) != "completed":
        pass
    whole = tg.fine_tuning.content(ft_id=job, checkpoint="merged").read()
    box.break_({"fault": "wrong_hash", "times": 1})
    spoilt = tg.fine_tuning.content(ft_id=job, checkpoint="merged").read()
    assert len(spoilt) == len(whole)
    assert sum(a != b for a, b in zip(spoilt, whole, strict=True)) == 1


def test_slow_bytes_come_all_the_same(box: Sandbox, oai: openai.OpenAI, prefs: Path) -> None:
    size = prefs.stat().st_size
    box.break_({"fault": "slow", "on": ["upload", "content"], "bytes_per_second": 10 * size})
    begun = time.monotonic()
    file = send(oai, prefs)
    assert oai.files.content(file).content == prefs.read_bytes()
    assert time.monotonic() - begun >= 0.19


def test_accounts_that_may_not(box: Sandbox, oai: openai.OpenAI, tg: together.Together, prefs: Path) -> None:
    file, other = send(oai, prefs), send_together(tg, prefs)
    box.break_({"fault": "not_eligible"})
    with pytest.raises(openai.PermissionDeniedError):
        create(oai, file)
    with pytest.raises(together.PermissionDeniedError):
        create_together(tg, other)
    box.mend()
    box.break_({"fault": "insufficient_quota"})
    with pytest.raises(openai.RateLimitError) as caught:
        create(oai, file)
    assert caught.value.code == "insufficient_quota"
    with pytest.raises(together.APIStatusError) as refused:
        create_together(tg, other)
    assert refused.value.status_code == 402


def test_jobs_that_fail_and_jobs_that_go_on_under_a_new_id(
    box: Sandbox, oai: openai.OpenAI, tg: together.Together, prefs: Path
) -> None:
    file, other = send(oai, prefs), send_together(tg, prefs)
    box.break_({"fault": "job_fails", "provider": "openai", "code": "data_unsafe", "message": "harm types [hate]"})
    job = create(oai, file)
    assert states(oai, job) == ["validating_files", "queued", "running", "failed"]
    got = oai.fine_tuning.jobs.retrieve(job).error
    assert got is not None
    assert (got.code, got.message) == ("data_unsafe", "harm types [hate]")
    box.break_({"fault": "restarted", "provider": "together", "times": 1})
    first = create_together(tg, other)
    while str(tg.fine_tuning.retrieve(first).status) not in {"error", "completed"}:
        pass
    events = tg.fine_tuning.list_events(first).data
    (said,) = [event.message for event in events if event.type == "job_restarted"]
    second = said.rpartition(" ")[2]
    assert "refund" in [event.type for event in events]
    while str(tg.fine_tuning.retrieve(second).status) != "completed":
        pass
    assert len(box.requests("together", "create")) == 1


def test_the_log_and_the_admin_addresses_hold_no_secret(box: Sandbox, oai: openai.OpenAI, prefs: Path) -> None:
    file = send(oai, prefs)
    secret = "sk-canary-1"
    create(oai.with_options(api_key=secret), file, extra_headers={"x-key": secret})
    origin = box.origins["openai"]
    key = {"authorization": f"Bearer {secret}"}
    body = {"training_file": "f", "model": "m", "wandb_key": secret, "hf_api_token": secret}
    with httpx.Client(trust_env=False) as client:
        client.post(f"{box.origins['together']}/v1/fine-tunes", json=body, headers=key)
        log = client.get(f"{origin}/_sandbox/requests").json()["requests"]
        assert secret not in json.dumps(log)
        assert log[-1]["body"]["wandb_key"] == "***"
        assert [entry["operation"] for entry in log] == ["upload", "create", "create"]
        assert client.get(f"{origin}/_sandbox/requests?since=2").json()["requests"] == log[2:]
        fault = {"faults": [{"fault": "storm", "times": 1}]}
        assert client.post(f"{origin}/_sandbox/faults", json=fault).json() == {"ok": True}
        assert client.get(f"{origin}/v1/models", headers=key).status_code == 429
        wrong = client.post(f"{origin}/_sandbox/faults", json={"faults": [{"fault": "hurricane"}]})
        assert wrong.status_code == 400
        before = client.get(f"{origin}/_sandbox/clock").json()["now"]
        client.post(f"{origin}/_sandbox/clock", json={"advance": 1000})
        assert client.get(f"{origin}/_sandbox/clock").json()["now"] > before + 999
        client.delete(f"{origin}/_sandbox/requests")
        assert client.get(f"{origin}/_sandbox/requests").json() == {"requests": []}


@pytest.mark.parametrize("script", [{"fault": "storm"}, [{"fault": "storm", "percent": 101}], [{"fault": "x"}], 7])
def test_a_wrong_script_is_refused_before_anything_is_served(script: Any) -> None:
    with pytest.raises(Invalid, match="faults"):
        serve(faults=script)
