"""Prices before paying: tokens as the run then reports them, time as it was measured, and the user's own cap."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

import anydpo
from anydpo import PreferenceJob, samples
from anydpo.data.counting import count
from anydpo.errors import CapExceeded
from anydpo.plan import Prepared, prepare
from anydpo.provider import Plan, Quote
from anydpo.registry import using
from anydpo.result import Cost
from anydpo.sandbox import Sandbox, serve
from anydpo.spend import hold_to
from anydpo.testing.memory import MemoryProvider
from tests.conformance.helpers import memory_job

QWEN = "Qwen/Qwen3-8B"


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with serve(trainer="instant", steps=4, providers=["together"], folder=tmp_path / "box") as made:
        for name, value in made.env.items():
            monkeypatch.setenv(name, value)
        yield made


def tone(**fields: Any) -> PreferenceJob:
    return PreferenceJob(**{"model": QWEN, "data": anydpo.load(samples.pairs(120)), "batch_size": 16, **fields})


def near(quoted: int | None, reported: int | None) -> float:
    assert quoted
    assert reported
    return abs(quoted / reported - 1)


@pytest.mark.parametrize(
    ("epochs", "options"), [(1, {}), (3, {}), (2, {"n_evals": 4}), (1, {"packing": False})], ids=str
)
def test_together_reports_the_tokens_that_were_quoted(box: Sandbox, epochs: int, options: dict[str, Any]) -> None:
    """The sandbox writes each turn out as Qwen's template does and shares nothing with our counting."""
    pytest.importorskip("quicktok", reason='pip install "anydpo[quality]"')
    job = tone(epochs=epochs, validation=anydpo.load(samples.pairs(24, held_out=True)), options={"together": options})
    quoted = anydpo.quote(job, "together")["together"]
    assert quoted is not None
    assert "counted with qwen3" in " ".join(quoted.assumptions)
    result = anydpo.submit(job, "together").wait().raise_for_state()
    assert near(quoted.tokens, result.usage.train_tokens) < 0.05
    print(f"\ntogether, {epochs} epochs {options}: quoted {quoted.tokens}, run {result.usage.train_tokens}")  # noqa: T201


def test_this_machine_reports_the_tokens_that_were_quoted() -> None:
    job = tone(model="tiny", data=anydpo.load(samples.pairs(48)), epochs=2, sft=anydpo.SFT(data="chosen", epochs=2))
    quoted = anydpo.quote(job, "local")["local"]
    assert quoted is not None
    assert quoted.cost.amount == 0
    assert quoted.seconds is not None
    assert quoted.seconds > 0
    assert "on the CPU" in quoted.assumptions[0] or "on the GPU" in quoted.assumptions[0]
    assert anydpo.quote(job, "local")["local"] == quoted  # the same trial is not made twice
    result = anydpo.submit(job, "local").wait().raise_for_state()
    assert near(quoted.tokens, result.usage.train_tokens) < 0.05
    took = result.timing.train_seconds
    print(f"\nlocal: quoted {quoted.tokens}, {quoted.seconds} s; run {result.usage.train_tokens}, {took:.1f} s")  # noqa: T201


def test_a_trial_that_fails_leaves_the_time_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    from anydpo.errors import RunFailed
    from anydpo_local import estimate

    def broken(*_: Any, **__: Any) -> None:
        raise RunFailed("no memory")

    monkeypatch.setattr(estimate, "run_trainer", broken)
    quoted = anydpo.quote(tone(model="tiny"), "local")["local"]
    assert quoted is not None
    assert (quoted.tokens, quoted.seconds) == (None, None)
    assert "no memory" in quoted.assumptions[0]


def test_a_rehearsal_is_held_to_the_cap_as_the_real_thing_is(box: Sandbox) -> None:
    with pytest.raises(CapExceeded, match="nothing was sent"):
        anydpo.submit(tone(), "together", max_cost_usd=0.001)
    assert box.requests("together", "create") == box.requests("together", "upload") == []
    with pytest.raises(CapExceeded, match="not known"):
        anydpo.submit(tone(model="meta-llama/Llama-3.3-70B-Instruct"), "together", max_cost_usd=100)
    assert box.requests("together", "create") == []
    assert anydpo.submit(tone(), "together", max_cost_usd=1).created


def test_pairs_are_counted_with_the_models_own_tokenizer() -> None:
    """`hello world` is two tokens of every encoding since GPT-4; a turn's marks are those of the family's template."""
    pytest.importorskip("quicktok", reason='pip install "anydpo[quality]"')
    pairs = anydpo.load([{"prompt": "hello world", "chosen": "hello world", "rejected": "hello"}] * 3)
    found = count(pairs, QWEN)
    assert found is not None
    assert found[:3] == (3 * (2 + 5), 3 * (2 + 5), 3 * (1 + 5))
    assert count(pairs, "nobody/knows-it") is None
    assert count(pairs, None) is None


def test_of_much_data_every_kth_pair_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("quicktok", reason='pip install "anydpo[quality]"')
    from anydpo.data import counting

    pairs = anydpo.load(samples.pairs(300))
    whole = count(pairs, QWEN)
    monkeypatch.setattr(counting, "MOST_CHARACTERS", 4000)
    part = count(pairs, QWEN)
    assert whole is not None
    assert part is not None
    assert "in every" in part.how
    assert abs(sum(part[:3]) / sum(whole[:3]) - 1) < 0.05


class Hourly(MemoryProvider):
    """A place with machines at 6 dollars an hour, which are stopped when they are told to."""

    name: ClassVar[str] = "hourly"

    def quote(self, plan: Plan) -> Quote | None:
        seconds = float(plan.filled.get("limit", 86_400))
        return Quote(cost=Cost(amount=6 * seconds / 3600, basis="the user's price"))

    def limited(self, plan: Plan, usd: float) -> Plan:
        most = int(3600 * usd / 6)
        if most >= float(plan.filled.get("limit", 86_400)):
            return plan
        return plan.model_copy(update={"filled": {**plan.filled, "limit": str(most)}})


def test_on_hourly_routes_the_cap_becomes_a_limit_that_is_sent_with_the_job() -> None:
    with using(Hourly(), MemoryProvider()):
        machine = prepare(memory_job(), "hourly")
        tokens = prepare(memory_job(), "memory")  # 0.008 dollars
        (alone,) = hold_to(3.0, [machine])
        assert isinstance(alone, Prepared)
        assert alone.plan.filled["limit"] == "1800"
        first, second, third = hold_to(3.008, [machine, tokens, replace(machine)])
        assert isinstance(first, Prepared)
        assert isinstance(second, Prepared)
        assert isinstance(third, Prepared)
        assert (first.plan.filled["limit"], third.plan.filled["limit"]) == ("900", "900")  # what is left, in halves
        assert second is not tokens
        assert second.plan.filled == tokens.plan.filled
        assert hold_to(None, [machine]) == [machine]
        with pytest.raises(CapExceeded):
            hold_to(0.001, [tokens, machine])


@pytest.mark.parametrize(
    ("place", "options", "where"),
    [
        (
            "sagemaker/training",
            {"sagemaker": {"role": "arn:aws:iam::123456789012:role/x", "price_per_hour_usd": 6, "instance_count": 2}},
            lambda body: body["StoppingCondition"]["MaxRuntimeInSeconds"],
        ),
        (
            "azure/command",
            {"azure": {"compute": "gpus", "price_per_hour_usd": 6, "instance_count": 2, "timeout_seconds": 86_400}},
            lambda body: body["properties"]["limits"]["timeout"],
        ),
    ],
)
def test_machines_of_the_clouds_are_limited(place: str, options: dict[str, Any], where: Any) -> None:
    """Two machines at 6 dollars an hour: 3 dollars are 15 minutes."""
    prepared = prepare(tone(model="tiny", options=options), place)
    (limited,) = hold_to(3.0, [prepared])
    assert isinstance(limited, Prepared)
    assert where(limited.plan.requests[-1].body) in (900, "P15M", "PT15M")
    assert "the cap of 3.00 USD ends the job after 900 s" in limited.plan.warnings
    assert limited.run_id == prepared.run_id
    price = prepared.provider.quote(limited.plan)
    assert price is not None
    assert price.cost.amount == pytest.approx(3.0)
