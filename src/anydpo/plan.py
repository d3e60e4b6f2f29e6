"""`check`: everything that can be known before sending, for one job at one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from anydpo.errors import JobInvalid, Problem, ProviderMissing
from anydpo.identity import job_fingerprint, run_id, tuning_fingerprint
from anydpo.job import LoRA, PreferenceJob, datasets_of
from anydpo.provider import Capabilities, DataSummary, Plan, Provider, Tuning
from anydpo.registry import provider, split_place
from anydpo.settings import applied
from anydpo.start import FIELD, start_of

if TYPE_CHECKING:
    from anydpo.data.dataset import PreferenceDataset

ABOUT_US = frozenset({"name", "tags", "allow_ignored", "options", "data", "validation", "model", "method", "adapter"})


@dataclass(frozen=True)
class Prepared:
    """A job with its data read and its plan made, ready to be sent."""

    job: PreferenceJob
    provider: Provider
    plan: Plan
    train: PreferenceDataset
    validation: PreferenceDataset | None
    contents: dict[str, str]
    tuning: Tuning | None = None

    @cached_property
    def fingerprint(self) -> str:
        """The identity of the job at this place, and of the search over it where the provider's own tuner makes one."""
        held_out = self.validation.fingerprint if self.validation is not None else None
        job = job_fingerprint(self.job, self.plan.place, self.train.fingerprint, held_out, self.contents)
        return job if self.tuning is None else tuning_fingerprint(job, self.tuning.model_dump(mode="json"))

    @cached_property
    def counted(self) -> Plan:
        """The plan, made again with the data counted in the model's own tokens where a tokenizer of it is here."""
        from anydpo.data.counting import count

        known = count(self.train, self.plan.model)
        if known is None:
            return self.plan
        tokens = {"prompt": known.prompt, "chosen": known.chosen, "rejected": known.rejected}
        if self.validation is not None and (held_out := count(self.validation, self.plan.model)) is not None:
            tokens["validation"] = 2 * held_out.prompt + held_out.chosen + held_out.rejected
        data = summarise(self.train, self.validation).model_copy(update={"tokens": tokens, "counted": known.how})
        start = start_of(self.job.start_from, self.provider.name)
        told = self.job.model_copy(update={FIELD: start.model}) if start and start.model else self.job
        again = self.provider.plan(told, data, split_place(self.plan.place)[1])
        return self.plan.model_copy(update={"filled": {**self.plan.filled, **again.filled}})

    @property
    def run_id(self) -> str:
        """The id of this request."""
        return run_id(self.fingerprint, self.plan.place, self.plan.target)

    def or_raise(self) -> Prepared:
        """Return this, or raise `JobInvalid` with every problem."""
        if self.plan.problems:
            raise JobInvalid.of(self.plan.problems, provider=self.provider.name)
        return self


def check(job: PreferenceJob, place: str) -> Plan:
    """Return the plan of a job at a place: problems, warnings, what is ignored, and the exact requests.

    Sends nothing. Raises `DataInvalid` where the data cannot be read and `ProviderMissing` where there is no
    such place.
    """
    return prepare(job, place).plan


def prepare_all(job: PreferenceJob, places: Sequence[str]) -> list[Prepared]:
    """Return the job prepared for each of these places; its data is read once."""
    data = datasets_of(applied(job))
    return [prepare(job, place, data) for place in places]


def prepare(
    job: PreferenceJob, place: str, data: tuple[PreferenceDataset, PreferenceDataset | None] | None = None
) -> Prepared:
    """Read the data, ask the provider for its plan, and add what the core checks for every provider.

    `data` is what the job names, for a caller who has read it already.
    """
    job = applied(job)
    name, route = split_place(place)
    chosen = provider(name)
    if route is not None and route not in chosen.capabilities:
        raise ProviderMissing(
            f"{name} has no route {route!r}",
            hint=f"one of {', '.join(f'{name}/{r}' for r in chosen.capabilities if r)}",
        )
    train, validation = data or datasets_of(job)
    start = start_of(job.start_from, name)
    told = job.model_copy(update={FIELD: start.model}) if start and start.model else job
    plan = chosen.plan(told, summarise(train, validation), route)
    _, route = split_place(plan.place)
    if start and (against := start.against(plan)):
        others = [problem for problem in plan.problems if problem.field != FIELD]
        plan = plan.model_copy(update={"problems": (*others, against)})
    problems, ignored = _not_honoured(job, chosen.capabilities[route or ""], train)
    problems += [problem for pairs in (train, validation) if pairs is not None for problem in _unwritable(pairs, plan)]
    plan = plan.model_copy(update={"problems": (*plan.problems, *problems), "ignored": (*plan.ignored, *ignored)})
    contents = {**_contents(job), **({FIELD: start.identity} if start else {})}
    return Prepared(job, chosen, plan, train, validation, contents)


def summarise(train: PreferenceDataset, validation: PreferenceDataset | None) -> DataSummary:
    """Return what plans need to know of the data."""
    scan = train.scan
    return DataSummary(
        format=train.format,
        fingerprint=train.fingerprint,
        validation_fingerprint=validation.fingerprint if validation is not None else None,
        train_pairs=len(train),
        validation_pairs=len(validation) if validation is not None else None,
        skipped=train.skipped,
        features=dict(scan.features),
        prompt_characters=scan.characters["prompt"],
        answer_characters=scan.characters["chosen"] + scan.characters["rejected"],
    )


def _not_honoured(job: PreferenceJob, can: Capabilities, data: PreferenceDataset) -> tuple[list[Problem], list[str]]:
    """Return a problem for all that the user asked for and this route cannot do, unless it may be ignored."""
    set_here = sorted(job.model_fields_set - ABOUT_US - set(can.fields))
    asked = {name: f"{name} has no effect here" for name in set_here if getattr(job, name) not in ("auto", None)}
    losses = (job.method.loss_type,) if isinstance(job.method.loss_type, str) else job.method.loss_type
    for loss in losses:
        if loss not in can.losses:
            asked["method.loss_type"] = f"no {loss} here; there is {', '.join(can.losses)}"
    for name in sorted(job.method.model_fields_set - {"loss_type", "beta"}):
        if f"method.{name}" not in can.fields:
            asked[f"method.{name}"] = "has no effect here"
    kind = "lora" if isinstance(job.adapter, LoRA) else job.adapter
    if kind != "auto" and kind not in can.adapters:
        there_is = f"there is {', '.join(can.adapters)}" if can.adapters else "the provider decides what it trains"
        asked["adapter"] = f"no {kind} here; {there_is}"
    for feature in ("tools", "images", "weight", "many_messages"):
        if data.scan.features[feature] and feature not in can.holds:
            pairs = data.scan.features[feature]
            asked[f"data.{feature}"] = f"{pairs:,} pairs have {feature.replace('_', ' ')}, which cannot be trained here"
    allowed = set(job.allow_ignored)
    problems = [
        Problem(field, "not_honoured", message, f'allow_ignored = ["{field}"] goes on without it')
        for field, message in asked.items()
        if field not in allowed
    ]
    return problems, [field for field in asked if field in allowed]


def _unwritable(pairs: PreferenceDataset, plan: Plan) -> list[Problem]:
    """Return a problem for all pairs that the place would refuse, with their lines, before anything is sent."""
    from anydpo.data.write import refused_by

    hint = "leave these rows out: `anydpo lint --fix OUT`"
    return [
        Problem("data", "refused_pairs", f"{plan.place}: {found}", hint) for found in refused_by(pairs, plan.format)
    ]


def _contents(job: PreferenceJob) -> dict[str, str]:
    """Return the hashes that stand for the files a job names, so that paths never count."""
    import hashlib
    from pathlib import Path

    found: dict[str, Any] = {}
    if job.sft is not None and job.sft.data != "chosen":
        from anydpo.data.chat import fingerprint

        found["sft"] = fingerprint(Path(job.sft.data))
    if job.chat_template not in ("auto", "none"):
        try:
            content = Path(job.chat_template).read_bytes()
        except OSError as exc:
            raise JobInvalid.of(
                [
                    Problem(
                        "chat_template", "no_file", f"{job.chat_template}: {exc.strerror}", "a Jinja file, auto or none"
                    )
                ]
            ) from None
        found["chat_template"] = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return found
