"""What each provider really ran: where it is not what was asked for, and where the runs are not alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from anydpo.report.beside import beside, marks_of
from anydpo.report.document import Block, Section, Table, Text
from anydpo.result import Result

if TYPE_CHECKING:
    from anydpo.comparison import Comparison

# About the machine or the place and not about the method: where a file lies, how a pass is cut
APART = frozenset(
    "model train_data validation_data ref_model cache_dir start_from passes device processes sharding save_steps"
    " save_total_limit trained_weights micro_batch_size".split()
)
# Told also where they are alike and nobody asked for them; --json has the rest
TOLD = frozenset(
    "epochs max_steps batch_size learning_rate max_length adapter adapter.r seed method.beta method.loss_type".split()
)


def sections(comparison: Comparison) -> Iterator[Section]:
    """Yield what was really run, where any provider tells it."""
    marks = marks_of(comparison)
    ran = {one.run: dict(_flat(one.method.effective)) for one in comparison.results}
    asked = {one.run: dict(_flat(one.method.requested)) for one in comparison.results}
    names = list(dict.fromkeys(name for found in ran.values() for name in found))
    rows, alike = [], []
    for name in names:
        values = [found[name] for found in ran.values() if name in found]
        wishes = {run: asked[run][name] for run in ran if name in asked[run] and asked[run][name] not in (None, "auto")}
        changed = any(name in ran[run] and ran[run][name] != wish for run, wish in wishes.items())
        if not changed and all(value == values[0] for value in values):
            alike += [f"{name} {_word(values[0])}"] if wishes or name in TOLD else []
        else:
            rows.append((name, [_cell(name, one, ran[one.run], wishes) for one in comparison.results]))
    blocks: list[Block] = [beside(comparison, rows)] if rows else []
    said = [(marks[one.run], text) for one in comparison.results for text in one.method.differences]
    if said:
        blocks.append(Table(("run", "not what was asked for"), said))
    if alike:
        where = "Told" if len(comparison) == 1 else "The same in every run that tells it"
        blocks.append(Text(f"{where}: {', '.join(alike)}."))
    if blocks:
        note = "A dash: the provider does not say. Asked: what the job asked for and the provider changed."
        yield Section("What was really run", blocks, note)


def _cell(name: str, result: Result, ran: Mapping[str, Any], wishes: Mapping[str, Any]) -> str:
    if name not in ran:
        return "–"  # noqa: RUF001
    wish = wishes.get(result.run, ran[name])
    return _word(ran[name]) if wish == ran[name] else f"{_word(ran[name])} (asked: {_word(wish)})"


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting by its path, as plain values; one loss in a list is that loss."""
    for name, value in table.items():
        if name in APART or value is None:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{name}", value[0] if len(value) == 1 else list(value)
        else:
            yield f"{prefix}{name}", value


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(_word, value)) if isinstance(value, list) else str(value)
