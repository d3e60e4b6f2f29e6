"""The same held-out pairs measured the same way for every run: from its weights, or by a judge of what it writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from anydpo.errors import AnyDPOError, Invalid, JournalError, ProviderRefused, RunFailed
from anydpo.home import home
from anydpo.measured import keep, kept
from anydpo.result import Evaluation, Part, Result, State
from anydpo.significance import Difference

if TYPE_CHECKING:
    from anydpo.comparison import Comparison
    from anydpo.data.dataset import PreferenceDataset
    from anydpo.handle import Run
    from anydpo.judge import Judge

KL_PROMPTS, KL_TOKENS = 64, 64


@dataclass(frozen=True)
class How:
    """How every run is measured.

    `by` names annotation data to slice by, `max_length` leaves out longer pairs, `ref_model` overrides what a run's
    own reference is; `kl_prompts` answers of at most `kl_tokens` tokens are drawn to measure the divergence.
    """

    ref_model: str | None = None
    max_length: int | None = None
    dtype: str = "auto"
    kl_prompts: int = KL_PROMPTS
    kl_tokens: int = KL_TOKENS
    by: tuple[str, ...] = ()
    seed: int = 0


class EvaluatedRun(Part):
    """What was measured of one run."""

    run: str
    place: str
    evaluations: tuple[Evaluation, ...]


class Measured(Part):
    """What `evaluate --json` prints: `not_measured` says why a run was not."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    data: str
    files: tuple[str, ...]
    pairs: int
    runs: tuple[EvaluatedRun, ...]
    not_measured: dict[str, str]
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Evaluated:
    """What was measured, run by run, and why a run was not."""

    data: PreferenceDataset
    runs: tuple[Run, ...]
    evaluations: dict[str, tuple[Evaluation, ...]]
    not_measured: dict[str, str] = field(default_factory=dict)

    @property
    def comparison(self) -> Comparison:
        """The runs side by side, with these figures."""
        from anydpo.comparison import compare

        return compare(self.runs)

    def document(self) -> Measured:
        """Return the JSON document of `evaluate --json`."""
        made = [
            EvaluatedRun(run=one.id, place=one.place, evaluations=self.evaluations[one.id])
            for one in self.runs
            if one.id in self.evaluations
        ]
        return Measured(
            data=self.data.fingerprint,
            files=self.data.files,
            pairs=len(self.data),
            runs=tuple(made),
            not_measured=self.not_measured,
            differences=self.comparison.differences,
        )

    def __getitem__(self, run: Run | str) -> tuple[Evaluation, ...]:
        return self.evaluations[run if isinstance(run, str) else run.id]

    def _repr_html_(self) -> str:
        return self.comparison._repr_html_()


def evaluate(
    runs: Run | str | Sequence[Run | str],
    data: Any,
    *,
    judge: Judge | str | None = None,
    max_cost_usd: float | None = None,
    allow_unknown_price: bool = False,
    again: bool = False,
    say: Callable[[str], None] | None = None,
    **how: Any,
) -> Evaluated:
    """Measure runs on the same preference pairs and keep what was found with each run.

    Weights are fetched where their place hands them out, and measured by the trainer as a process. With a `judge`
    completions are judged too, of every run that can write any. What was measured before in the same way is not
    measured again unless `again`. `how` are the fields of `How`; `say` is told what is being done.

    Raises `CapExceeded` before anything is paid, `Invalid` where the data has no pair, and what went wrong where no
    run could be measured.
    """
    from anydpo.data.dataset import PreferenceDataset
    from anydpo.data.read import load
    from anydpo.handle import Run
    from anydpo.judge import Judge

    given = [runs] if isinstance(runs, (Run, str)) else list(runs)
    found = tuple({one.id: one for one in (Run(one) if isinstance(one, str) else one for one in given)}.values())
    pairs = data if isinstance(data, PreferenceDataset) else load(data)
    if not pairs:
        raise Invalid("there is no pair to measure on", hint="`anydpo lint FILE` says what became of its rows")
    results = {one.id: one.result() for one in found}
    if isinstance(judge, str):
        judge = Judge(judge)
    if judge is not None:
        judge.hold_to(max_cost_usd, pairs, list(results.values()), allow_unknown_price=allow_unknown_price)
    made: dict[str, tuple[Evaluation, ...]] = {}
    reasons: dict[str, str] = {}
    errors: list[AnyDPOError] = []
    for one in found:
        measures: list[Callable[[], Evaluation]] = [lambda r=results[one.id]: _pairs(r, pairs, How(**how), again, say)]  # type: ignore[misc]
        if judge is not None:
            measures.append(lambda r=results[one.id]: judge.evaluate(r, pairs, again=again, say=say))  # type: ignore[misc]
        for measure in measures:
            try:
                made[one.id] = (*made.get(one.id, ()), measure())
            except JournalError:
                raise
            except AnyDPOError as exc:
                errors.append(exc)
                reasons.setdefault(one.id, exc.message)
    if not made and errors:
        raise errors[0]
    return Evaluated(pairs, found, made, {run: why for run, why in reasons.items() if run not in made})


def _pairs(
    result: Result, pairs: PreferenceDataset, how: How, again: bool, say: Callable[[str], None] | None
) -> Evaluation:
    """Measure one run from its weights, or return what was measured before."""
    from anydpo.measure import MEASURER, config_of, measure

    if result.state is not State.SUCCEEDED:
        raise RunFailed(f"run {result.run} is {result.state}: it has no weights to measure", provider=result.place)
    _gives_weights(result)
    wanted = Evaluation(
        kind="pairs",
        data=pairs.fingerprint,
        files=pairs.files,
        pairs=len(pairs),
        by=MEASURER,
        provider_job_id=result.provider_job_id,
        reference=_reference(result, how.ref_model),
        settings=config_of(result, how),
        when=time.time(),
    )
    if not again and (found := kept(home(), result.run, wanted)) is not None:
        return found
    if say is not None:
        say(f"{result.run} on {result.place}: measuring {len(pairs):,} pairs")
    evaluation, rows = measure(_weights(result), wanted, pairs, how, result)
    return keep(home(), result.run, evaluation, rows)


def _gives_weights(result: Result) -> None:
    from anydpo.registry import provider, split_place

    name, route = split_place(result.place)
    if not provider(name).capabilities[route or ""].weights:
        raise ProviderRefused(
            f"{result.place} does not hand out weights",
            provider=name,
            hint="--judge MODEL judges what the model writes there",
        )


def _weights(result: Result) -> str:
    """Return the folder of a run's weights: where they are, or in the cache, where they are brought once."""
    if result.model.weights and Path(result.model.weights).is_dir():
        return result.model.weights
    assert result.provider_job_id is not None
    return _cached(result, result.provider_job_id)


def _cached(result: Result, job: str) -> str:
    """Bring the weights of a job to the cache: the adapter alone where there is one, as it names its reference."""
    from urllib.parse import quote

    from anydpo.provider import FetchesAdapters, JobRef
    from anydpo.registry import provider, split_place
    from anydpo.weights import settle_base, trained_whole

    folder = home() / "cache" / "weights" / split_place(result.place)[0] / quote(job, safe="")
    if not folder.is_dir():
        place, ref = provider(split_place(result.place)[0]), JobRef(id=job, place=result.place)
        if isinstance(place, FetchesAdapters) and not trained_whole(result):
            place.fetch_adapter(ref, folder)
        else:
            place.fetch(ref, folder)
        settle_base(folder, result)
    return str(folder)


def _reference(result: Result, named: str | None) -> str | None:
    """Return the model that a run's DPO was held to, None where it is the base that the run's adapter names.

    Raises `RunFailed` where nobody knows it.
    """
    from anydpo.provider import JobRef, KnowsReference
    from anydpo.registry import provider, split_place
    from anydpo.weights import trained_whole

    if named is not None:
        return named
    place = provider(split_place(result.place)[0])
    if isinstance(place, KnowsReference):
        return place.reference(JobRef(id=str(result.provider_job_id), place=result.place))
    if result.job.get("ref_model"):
        return str(result.job["ref_model"])
    before = [stage.provider_job_id for stage in result.stages if stage.stage == "sft" and stage.provider_job_id]
    if before:
        return _cached(result, before[-1])
    start = result.job.get("start_from") or ("its own supervised stage" if result.job.get("sft") else None)
    if start is not None:
        raise RunFailed(
            f"run {result.run} began from {start}, whose weights only {result.place} has",
            provider=result.place,
            hint="--ref-model FOLDER names them",
        )
    return result.model.requested if trained_whole(result) else None
