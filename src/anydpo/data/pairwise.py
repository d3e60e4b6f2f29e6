"""Two answers and a label: HelpSteer3, SHP, PKU-SafeRLHF, PandaLM, LLMBar, HALOs, Tinker, webgpt, alpaca_eval and
arena battles. Formats: each project's data card or reader, as `docs/data.md` lists them."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from anydpo.data.dialect import BadRow, Fields, judged
from anydpo.data.item import Answer, Item, Verdict
from anydpo.data.judgment import Choice
from anydpo.data.policy import Options
from anydpo.data.shape import answer, has, need, needed_number, number, question, shared_prompt, text, with_input

ANNOTATOR = re.compile(r"annotator_?\d+$")
READ_AS_VALUES = frozenset({"instruction", "input", "response1", "response2"})
SCALARS = (bool, int, float)
WINNERS: dict[str, Choice] = {
    "model_a": "first",
    "model_b": "second",
    "tie": "tie",
    "tie (bothbad)": "tie",
    "both_bad": "tie",
    "bothbad": "tie",
}


def key_of(*parts: object) -> str:
    """Return a short name for an item whose source gives none: a hash of its texts."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:16]


def key_of_item(prompt: object, answers: Iterable[Answer]) -> str:
    """Return the name of an item that its prompt and its answers make."""
    return key_of(prompt, *(each.messages for each in answers))


def label(value: object, meaning: dict[Any, Choice], field: str) -> Choice:
    """Return what a label means; whole numbers and their text are the same."""
    if isinstance(value, str) and value.strip().lstrip("-").isdigit():
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value not in meaning:
        raise BadRow("invalid_label", f"{field!r} is {value!r}, expected one of {', '.join(map(repr, meaning))}")
    return meaning[value]


def agreeing(choice: Choice, first: float | None, second: float | None, what: str) -> Choice:
    """Return the choice if the two scores beside it say the same; equal scores are a tie."""
    if first is None or second is None or choice == "tie":
        return choice
    if (first > second) != (choice == "first") and first != second:
        raise BadRow(
            "score_contradicts_label", f"the {choice} answer is preferred, but {what} are {first:g}, {second:g}"
        )
    return "tie" if first == second else choice


def two(row: Fields, first: str, second: str, models: tuple[str, str] | None = None) -> tuple[Answer, Answer]:
    """Return the answers that stand in two fields, with the models named in two others."""
    one, other = models or ("", "")
    return (
        Answer(answer(need(row, first), first), model=_name(row.get(one))),
        Answer(answer(need(row, second), second), model=_name(row.get(other))),
    )


def _name(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


@judged(
    "helpsteer3",
    "NVIDIA HelpSteer3: two responses, overall and individual preferences from -3 to 3",
    keys="context response1 response2 overall_preference individual_preference",
    rank=12,
    fits=lambda row: "overall_preference" in row and has(row, "response1"),
)
def read_helpsteer3(row: Fields, options: Options) -> Item:
    """A negative preference is for `response1`, 0 is a tie; the overall one decides, annotators are kept beside it."""
    context = need(row, "context")
    answers = two(row, "response1", "response2")
    value = needed_number(row, "overall_preference")
    prompt = question(context, "context")
    overall = _preference(value)
    said = row.get("individual_preference") or []
    if not isinstance(said, list) or not all(isinstance(one, dict) for one in said):
        raise BadRow("unknown_format", "'individual_preference' is not a list of objects")
    verdicts = [
        Verdict(
            _side(_preference(number(one, "score"))),
            strength=abs(number(one, "score") or 0.0),
            justification=_name(one.get("reasoning")),
        )
        for one in said
        if one.get("score") is not None
    ]
    meta: dict[str, Any] = {"strength": abs(overall)}
    if verdicts:
        votes = Counter(verdict.choice for verdict in verdicts)
        meta |= {"annotators": len(verdicts), "votes": {side: votes[side] for side in ("first", "second", "tie")}}
        meta["justifications"] = [verdict.justification for verdict in verdicts if verdict.justification]
    for name in ("domain", "language"):
        if _name(row.get(name)):
            meta[name] = row[name]
    decided = Verdict(_side(overall), strength=abs(overall))
    key = key_of_item(prompt, answers)
    return Item(key, prompt, list(answers), [decided], verdicts or None, meta, margin=abs(overall))


def _preference(value: float | None) -> float:
    if value is None or not -3 <= value <= 3:
        raise BadRow("invalid_label", f"a preference is {value}, expected -3 to 3")
    return value


def _side(preference: float) -> Choice:
    return "tie" if preference == 0 else "first" if preference < 0 else "second"


@judged(
    "shp",
    "Stanford Human Preferences: two comments, `labels` 1 = A",
    keys="history human_ref_A human_ref_B labels score_A score_B score_ratio",
    rank=14,
    fits=lambda row: has(row, "human_ref_A", "human_ref_B"),
)
def read_shp(row: Fields, options: Options) -> Item:
    """The label has to agree with the votes of the two comments; `min_margin` is held against `score_ratio`."""
    asked, answers = need(row, "history"), two(row, "human_ref_A", "human_ref_B")
    given = need(row, "labels")
    prompt = question(asked, "history")
    choice = label(given, {1: "first", 0: "second"}, "labels")
    first, second, ratio = number(row, "score_A"), number(row, "score_B"), number(row, "score_ratio")
    choice = agreeing(choice, first, second, "the scores")
    scores = {"score": (first, second)} if first is not None and second is not None else {}
    meta = {name: row[name] for name in ("score_ratio", "domain") if row.get(name) is not None}
    key = key_of_item(prompt, answers)
    return Item(key, prompt, list(answers), [Verdict(choice, scores=scores)], meta=meta, lead=ratio)


SAFE_RLHF: dict[str, str] = {
    "helpfulness": "better_response_id",
    "better": "better_response_id",
    "better_response_id": "better_response_id",
    "safety": "safer_response_id",
    "safer": "safer_response_id",
    "safer_response_id": "safer_response_id",
}


@judged(
    "pku_saferlhf",
    "PKU-SafeRLHF: two responses, which is better and which is safer",
    keys="prompt response_0 response_1 better_response_id safer_response_id",
    rank=13,
    fits=lambda row: (
        has(row, "response_0", "response_1") and ("better_response_id" in row or "safer_response_id" in row)
    ),
)
def read_saferlhf(row: Fields, options: Options) -> Item:
    """`better_response_id` decides, or `safer_response_id` with the dimension `safety`."""
    field = options.dimension(SAFE_RLHF, "better_response_id")
    asked = need(row, "prompt")
    answers = two(row, "response_0", "response_1", ("response_0_source", "response_1_source"))
    given = need(row, field)
    prompt = question(asked, "prompt")
    choice = label(given, {0: "first", 1: "second"}, field)
    meta = {"dimension": "helpfulness" if field == "better_response_id" else "safety"}
    key = key_of_item(prompt, answers)
    return Item(key, prompt, list(answers), [Verdict(choice)], meta=meta)


@judged(
    "arena_battles",
    "Chatbot Arena battles: two conversations and a winner",
    keys="conversation_a conversation_b winner model_a model_b judge",
    rank=15,
    fits=lambda row: has(row, "conversation_a", "conversation_b") and "winner" in row,
)
def read_battle(row: Fields, options: Options) -> Item:
    """Both kinds of tie are ties; conversations that part before the last answer have no shared prompt."""
    one, other, winner = (need(row, name) for name in ("conversation_a", "conversation_b", "winner"))
    whole = question(one, "conversation_a"), question(other, "conversation_b")
    choice = label(winner, WINNERS, "winner")
    models = _name(row.get("model_a")), _name(row.get("model_b"))
    judge = _name(row.get("judge")) or _name(row.get("evaluation_session_id"))
    verdict = Verdict(choice, annotator=judge)
    key = str(row.get("question_id") or row.get("id") or "")
    key = f"{key}:{key_of(*whole)}" if key else key_of(*whole)
    if choice == "tie":  # which is all that is asked of it; the conversations need not share anything
        return Item(key, whole[0], [Answer(w, model=m) for w, m in zip(whole, models, strict=True)], [verdict])
    prompt, first, second = shared_prompt(*whole)
    answers = [Answer(first, model=models[0]), Answer(second, model=models[1])]
    return Item(key, prompt, answers, [verdict])


@judged(
    "alpaca_eval",
    "alpaca_eval annotations: `preference` 1 or 2, a tie, or a probability",
    keys="instruction output_1 output_2 generator_1 generator_2 preference annotator",
    rank=32,
    fits=lambda row: has(row, "output_1", "output_2") and "preference" in row,
)
def read_alpaca_eval(row: Fields, options: Options) -> Item:
    """1 is for `output_1`, 2 for `output_2`, 0 and 1.5 are ties; between, `preference` - 1 is P(`output_2` better)."""
    answers = two(row, "output_1", "output_2", ("generator_1", "generator_2"))
    asked = with_input(row)
    value = needed_number(row, "preference")
    prompt = question(asked, "instruction")
    if value != 0 and not 1 <= value <= 2:
        raise BadRow("invalid_label", f"'preference' is {value:g}, expected 1 to 2, or 0 for a tie")
    choice: Choice = "tie" if value in (0, 1.5) else "first" if value < 1.5 else "second"
    meta = {"prob_first": round(2 - value, 10)} if value else {}
    verdict = Verdict(choice, annotator=_name(row.get("annotator")))
    key = key_of_item(prompt, answers)
    return Item(key, prompt, list(answers), [verdict], meta=meta, lead=abs(2 * value - 3) if value else 0.0)


@judged(
    "pandalm",
    "PandaLM test set: annotators' 1, 2 or 0 = tie for two responses",
    keys="instruction input response1 response2 annotator1 annotator2 annotator3",
    rank=28,
    fits=lambda row: has(row, "response1", "response2") and any(map(ANNOTATOR.match, map(str, row))),
)
def read_pandalm(row: Fields, options: Options) -> Item:
    """One vote an annotator; a null is an annotator who did not see the item.

    Answers such as `True` and `7`, which its authors' table library took for values, are text again.
    """
    row = {
        key: str(value) if key in READ_AS_VALUES and isinstance(value, SCALARS) else value for key, value in row.items()
    }
    answers = list(two(row, "response1", "response2"))
    asked = with_input(row)
    names = [name for name in row if ANNOTATOR.match(name)]
    if not names:
        raise BadRow("missing_field", "no field 'annotator1'")
    prompt = question(asked, "instruction")
    meaning: dict[Any, Choice] = {0: "tie", 1: "first", 2: "second"}
    verdicts = [Verdict(label(row[name], meaning, name), annotator=name) for name in names if row[name] is not None]
    models = row.get("cmp_key")
    if isinstance(models, str) and models.count("_") == 1:
        answers[0].model, answers[1].model = models.split("_")
    key = str(row["idx"]) if row.get("idx") is not None else key_of_item(prompt, answers)
    return Item(key, prompt, answers, verdicts)


@judged(
    "llmbar",
    "LLMBar: two outputs, `label` 1 or 2",
    keys="input output_1 output_2 label",
    rank=33,
    fits=lambda row: has(row, "output_1", "output_2") and "label" in row and "preference" not in row,
)
def read_llmbar(row: Fields, options: Options) -> Item:
    """The label is the number of the better output."""
    asked, answers, given = need(row, "input"), two(row, "output_1", "output_2"), need(row, "label")
    prompt = question(asked, "input")
    choice = label(given, {1: "first", 2: "second"}, "label")
    return Item(key_of_item(prompt, answers), prompt, list(answers), [Verdict(choice)])


@judged(
    "halos_feedback",
    "HALOs pairwise feedback: two outputs, `label` 1 = A",
    keys="prompt output_A output_B label reward_A reward_B",
    rank=25,
    fits=lambda row: has(row, "output_A", "output_B") and "label" in row,
)
def read_halos(row: Fields, options: Options) -> Item:
    """The label has to agree with the rewards where the row has them."""
    asked, answers, given = need(row, "prompt"), two(row, "output_A", "output_B"), need(row, "label")
    prompt = question(asked, "prompt")
    choice = label(given, {1: "first", 0: "second"}, "label")
    first, second = number(row, "reward_A"), number(row, "reward_B")
    choice = agreeing(choice, first, second, "the rewards")
    known = first is not None and second is not None
    scores = {"reward": (first, second)} if known else {}
    margin = round(abs(first - second), 6) if first is not None and second is not None else None
    key = str(row.get("prompt_id") or key_of(prompt))
    key = f"{key}:{key_of(answers[0].messages, answers[1].messages)}"
    return Item(key, prompt, list(answers), [Verdict(choice, scores=scores)], margin=margin)


@judged(
    "tinker_comparison",
    "Tinker comparisons: `label` A, B or Tie",
    keys="comparison label",
    rank=24,
    fits=lambda row: isinstance(row.get("comparison"), dict) and "label" in row,
)
def read_tinker(row: Fields, options: Options) -> Item:
    """The comparison holds the prompt and both completions."""
    given, said = need(row, "comparison"), need(row, "label")
    if not isinstance(given, dict):
        raise BadRow("unknown_format", "'comparison' is not an object")
    asked, answers = need(given, "prompt_conversation"), two(given, "completion_A", "completion_B")
    prompt = question(asked, "prompt_conversation")
    choice = label(said, {"A": "first", "B": "second", "Tie": "tie", "tie": "tie"}, "label")
    return Item(key_of_item(prompt, answers), prompt, list(answers), [Verdict(choice)])


@judged(
    "webgpt",
    "OpenAI webgpt_comparisons: two answers with scores",
    keys="question answer_0 answer_1 score_0 score_1",
    rank=29,
    fits=lambda row: has(row, "answer_0", "answer_1") and "score_0" in row,
)
def read_webgpt(row: Fields, options: Options) -> Item:
    """The higher score is preferred, equal ones are a tie; the margin is their difference."""
    asked, answers = need(row, "question"), two(row, "answer_0", "answer_1")
    first, second = needed_number(row, "score_0"), needed_number(row, "score_1")
    prompt = question(text(asked, "full_text") if isinstance(asked, dict) else asked, "question")
    choice: Choice = "tie" if first == second else "first" if first > second else "second"
    verdict = Verdict(choice, strength=round(abs(first - second), 6), scores={"score": (first, second)})
    key = key_of_item(prompt, answers)
    return Item(key, prompt, list(answers), [verdict], margin=round(abs(first - second), 6))
