"""`migrate`: the job of a run, made ready for another place, with what changes on the way. Nothing is sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from anydpo.compose import COMPARED
from anydpo.errors import DataInvalid, Invalid, JobInvalid, Problem
from anydpo.handle import Run
from anydpo.home import home
from anydpo.job import PreferenceJob
from anydpo.jobfile import job_text
from anydpo.journal import journal_of
from anydpo.plan import Prepared, prepare
from anydpo.provider import Plan
from anydpo.records import AttemptRow, RunRow
from anydpo.registry import provider, split_place
from anydpo.result import Part

OF_THE_PLACE = ("options", "start_from", "allow_ignored")  # mean something at the old place only
NEEDED = ("model", "data")
MADE_UP = 2000  # pairs that stand for data which are not here: above every place's least


class Change(Part):
    """What becomes of one field: the same, another value, or nothing; values are those really run, where known."""

    field: str
    kind: Literal["kept", "changed", "lost"]
    before: Any = None
    after: Any = None
    reason: str | None = None


class Migration(Part):
    """The job file for another place, and every field's fate; `ready` when nothing stands against sending it."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    run: str
    name: str | None = None
    before: str = Field(description="the place of the run")
    place: str
    ready: bool
    changes: tuple[Change, ...]
    problems: tuple[dict[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()
    text: str = Field(description="the job file")
    path: str | None = Field(default=None, description="where it was written")

    def save(self, path: str | Path) -> Migration:
        """Write the job file; raises `Invalid` if there is something."""
        from anydpo.data.write import whole_file

        if Path(path).exists():
            raise Invalid(f"{path}: is there already", hint="-o FILE names another")
        with whole_file(Path(path)) as file:
            file.write(self.text.encode())
        return self.model_copy(update={"path": str(path)})

    def of(self, kind: str) -> tuple[Change, ...]:
        """Return the changes of one kind."""
        return tuple(change for change in self.changes if change.kind == kind)


def migrate(run: Run | str, place: str, *, data: str | None = None, validation: str | float | None = None) -> Migration:
    """Return the equivalent job of a run at another place.

    `data` and `validation` are for a run whose own are not here, such as an imported one. Raises `ProviderMissing` for
    a place that is none.
    """
    provider(split_place(place)[0])
    journal = journal_of(home())
    row = journal.run(run.id if isinstance(run, Run) else run)
    attempts = journal.attempts(row.id)
    if not row.job:
        raise Invalid(f"run {row.id} was found without its job", hint="submit the job again: it takes the run's place")
    fields, lost = _carried(row, place)
    given = {name: value for name, value in (("data", data), ("validation", validation)) if value is not None}
    sources = [_absolute_all(given)] if data is not None else _sources(row, attempts)
    prepared, found = _prepared(row, sources, fields, place, lost)
    changes = [*_changes(row, attempts, fields, prepared, lost), *lost]
    problems = (*found, *(prepared.plan.problems if prepared is not None else ()))
    order = {"lost": 0, "changed": 1, "kept": 2}
    return Migration(
        run=row.id,
        name=row.name,
        before=attempts[-1].place if attempts else row.place,
        place=prepared.plan.place if prepared else place,
        ready=not problems,
        changes=tuple(sorted(changes, key=lambda change: order[change.kind])),
        problems=tuple(problem._asdict() for problem in problems),
        warnings=prepared.plan.warnings if prepared else (),
        text=_text(row, place, fields, lost, problems),
    )


def _carried(row: RunRow, place: str) -> tuple[dict[str, Any], list[Change]]:
    """Return the fields that go along, and what means something at the old place only."""
    fields, lost = dict(row.job), list[Change]()
    before, after = split_place(row.place)[0], split_place(place)[0]
    if before == after:
        return fields, lost
    options = fields.pop("options", {})
    kept = {name: table for name, table in options.items() if name == after}
    if kept:
        fields["options"] = kept
    for name, value in options.get(before, {}).items():
        said = f"is an option of {before} alone"
        lost.append(Change(field=f"options.{before}.{name}", kind="lost", before=value, reason=said))
    if (start := fields.pop("start_from", None)) is not None:
        said = f"lies at {before}: `anydpo fetch` brings weights here where {before} hands them out, then a folder"
        lost.append(Change(field="start_from", kind="lost", before=start, reason=said))
    fields.pop("allow_ignored", None)
    return fields, lost


def _prepared(
    row: RunRow, sources: list[dict[str, Any]], fields: dict[str, Any], place: str, lost: list[Change]
) -> tuple[Prepared | None, tuple[Problem, ...]]:
    """Return the job planned at the new place, without the fields that have no effect there, and what it lacks.

    Sets in `fields` the first of the sources that holds what was trained. Where none can be read, made-up pairs stand
    for the data, so that all else is told.
    """
    said: tuple[Problem, ...] = ()
    for data in sources:
        tried = {**{name: value for name, value in fields.items() if name not in ("data", "validation")}, **data}
        dropped = list[Change]()
        try:
            prepared = _without_the_unmet(tried, place, dropped)
        except DataInvalid as exc:
            said = (Problem("data", exc.code, exc.message, exc.hint),)
            continue
        except JobInvalid as exc:
            said = exc.problems
            break
        trained, now = row.data.get("fingerprint"), prepared.train.fingerprint
        if trained not in (None, now):
            if data is not sources[-1]:
                continue
            reason = "not quite the pairs that were trained: the form that was sent holds less, or a file has changed"
            dropped.append(Change(field="data", kind="changed", before=trained, after=now, reason=reason))
        fields.clear()
        fields.update(tried)
        lost += dropped
        return prepared, ()
    if not said:
        told = fields.get("data")
        message = "the journal knows no file of it" if told is None else f"{told} is not here"
        said = (Problem("data", "no_file", message, "name your own file: --data FILE"),)
    if any(problem.field != "data" for problem in said):
        return None, said
    return _with_made_up_pairs(row, fields, place, lost), said


def _with_made_up_pairs(row: RunRow, fields: dict[str, Any], place: str, lost: list[Change]) -> Prepared | None:
    from anydpo import samples
    from anydpo.data.read import load

    count = min(int(row.data.get("train_pairs") or MADE_UP), MADE_UP)
    known = {name: fields[name] for name in ("data", "validation") if name in fields}
    tried = {**fields, "data": load(samples.pairs(count))}
    if "validation" in tried:
        tried["validation"] = load(samples.pairs(20))
    try:
        prepared = _without_the_unmet(tried, place, lost)
    except JobInvalid:
        return None
    fields.clear()
    fields.update({name: value for name, value in tried.items() if name not in ("data", "validation")} | known)
    return prepared


def _without_the_unmet(fields: dict[str, Any], place: str, lost: list[Change]) -> Prepared:
    """Plan the job; a field that has no effect there is taken out, told as lost, and the rest planned again."""
    while True:
        prepared = prepare(PreferenceJob(**fields), place)
        unmet = [problem for problem in prepared.plan.problems if problem.code == "not_honoured"]
        taken = False
        for problem in unmet:
            if (value := _take_out(fields, problem.field)) is not None:
                lost.append(Change(field=problem.field, kind="lost", before=value, reason=problem.message))
                taken = True
        if not taken:
            return prepared


def _take_out(fields: dict[str, Any], path: str) -> Any:
    top, _, inner = path.partition(".")
    if top in NEEDED:
        return None
    if not inner:
        return fields.pop(top, None)
    table = dict(fields.get(top) or {}) if isinstance(fields.get(top), Mapping) else {}
    value = table.pop(inner, None)
    if value is not None:
        fields[top] = table
    return value


def _sources(row: RunRow, attempts: list[AttemptRow]) -> list[dict[str, Any]]:
    """Return what `data` and `validation` may be: the user's files, then the copies of what was sent."""
    made: list[dict[str, Any]] = []
    told: dict[str, Any] = {name: row.job[name] for name in ("data", "validation") if name in row.job}
    if _is_here(told.get("data")) and _is_here(told.get("validation", 0.1)):
        made.append(_absolute_all(told))
    sent = {file["name"]: file["path"] for file in (attempts[-1].files if attempts else [])}
    if "train" in sent and all(Path(path).is_file() for path in sent.values()):
        kept: dict[str, Any] = {"data": sent["train"]}
        if "validation" in sent:
            kept["validation"] = sent["validation"]
        made.append(kept)
    return made


def _is_here(value: Any) -> bool:
    if isinstance(value, float):
        return True
    if isinstance(value, str):
        return "://" in value or bool(list(Path().glob(value)) if "*" in value else Path(value).exists())
    if isinstance(value, list):
        return all(_is_here(item) for item in value)
    return isinstance(value, Mapping) and "path" in value and _is_here(value["path"])


def _absolute_all(given: dict[str, Any]) -> dict[str, Any]:
    return {name: _absolute(value) for name, value in given.items()}


def _absolute(value: Any) -> Any:
    if isinstance(value, str):
        return value if "://" in value else str(Path(value).absolute())
    if isinstance(value, list):
        return [_absolute(item) for item in value]
    if isinstance(value, Mapping):
        inner = {name: _absolute(value[name]) for name in ("path",) if name in value}
        if isinstance(value.get("mapping"), str):
            inner["mapping"] = _absolute(value["mapping"])
        return {**value, **inner}
    return value


def _changes(
    row: RunRow,
    attempts: list[AttemptRow],
    fields: Mapping[str, Any],
    prepared: Prepared | None,
    lost: Sequence[Change],
) -> Iterator[Change]:
    """Yield each field that both places have a word for: the value that was run, and the one that would be."""
    last = attempts[-1] if attempts else None
    old = Plan(**last.plan) if last else None
    ran = dict(_flat((last.result or {}).get("effective") or (old.effective if old else {}) if last else {}))
    would = dict(_flat(prepared.plan.effective if prepared else {}))
    asked = dict(_flat({name: value for name, value in fields.items() if name not in (*OF_THE_PLACE, *NEEDED)}))
    yield _model(old.model if old else row.job.get("model"), prepared)
    if prepared is not None and old is not None and old.format:
        yield _change("format", old.format, prepared.plan.format, "the pairs are written anew in the place's own form")
    told = {change.field for change in lost}
    names = [name for name in (*asked, *ran) if name in asked or name.rpartition(".")[2] in COMPARED]
    for name in dict.fromkeys(names):
        top = name.partition(".")[0]
        if top in ("name", "tags", "validation") or name in told or top in told:
            continue
        before, after = ran.get(name, asked.get(name)), would.get(name, asked.get(name))
        reason = "the new place decides" if after is None else "each place has its own usual one"
        yield _change(name, before, after, reason)


def _model(before: Any, prepared: Prepared | None) -> Change:
    problems = prepared.plan.problems if prepared else ()
    wrong = next((problem.message for problem in problems if problem.field == "model"), None)
    if wrong is not None or prepared is None:
        return Change(field="model", kind="lost", before=before, reason=wrong or "no plan could be made there")
    return _change("model", before, prepared.plan.model, "the same weights by another name, or what the table names")


def _change(name: str, before: Any, after: Any, reason: str | None = None) -> Change:
    same = _one_form(before) == _one_form(after)
    return Change(
        field=name, kind="kept" if same else "changed", before=before, after=after, reason=None if same else reason
    )


def _one_form(value: Any) -> Any:
    """Return a value as every place writes it: one name alone, and several with commas, are lists."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return list(value) if isinstance(value, tuple) else value


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping) and value and not prefix.startswith("model"):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value


def _text(row: RunRow, place: str, fields: Mapping[str, Any], lost: list[Change], problems: tuple[Problem, ...]) -> str:
    known = {name: fields[name] for name in fields if not (name in NEEDED and _is_no_source(name, fields[name]))}
    whole = {"model": "MODEL", "data": "prefs.jsonl", **known}
    head = [f"the job of run {row.id} on {row.place}, for {place}"]
    head += [f"lost: {change.field} = {change.before!r}: {change.reason}" for change in lost if change.kind == "lost"]
    remarks = {problem.field: f"to be changed: {problem.message}" for problem in problems}
    return job_text(whole, remarks, "\n".join(" ".join(line.split()) for line in head))


def _is_no_source(name: str, value: Any) -> bool:
    return name == "data" and isinstance(value, Mapping) and "path" not in value
