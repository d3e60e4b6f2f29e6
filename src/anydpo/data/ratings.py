"""Several answers with ratings or ranks: UltraFeedback (raw), distilabel ratings, HelpSteer2, Nectar."""

from __future__ import annotations

from typing import Any

from anydpo.data.dialect import BadRow, Fields, judged
from anydpo.data.hh import turns
from anydpo.data.item import Answer, Item
from anydpo.data.pairwise import key_of
from anydpo.data.policy import Options
from anydpo.data.shape import answer, has, kind, need, optional_text, question, text

HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def objects(row: Fields, key: str) -> list[dict[str, Any]]:
    """Return a required list of objects."""
    value = need(row, key)
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise BadRow("unknown_format", f"{key!r} is {kind(value)}, expected a list of objects")
    return value


def _list(row: Fields, key: str) -> list[Any]:
    value = need(row, key)
    if not isinstance(value, list):
        raise BadRow("unknown_format", f"{key!r} is {kind(value)}, expected a list")
    return value


def _rating(value: object, field: str) -> float | None:
    """Return a rating given as a number or as its text; "N/A" and null are none."""
    if value is None or (isinstance(value, str) and value.strip().upper() in ("N/A", "NA", "")):
        return None
    try:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            rating = float(value)
            if abs(rating) < float("inf"):
                return rating
    except ValueError:
        pass
    raise BadRow("invalid_label", f"{field} is {value!r}, expected a number")


@judged(
    "ultrafeedback_raw",
    "UltraFeedback as first published: completions with ratings of four aspects",
    keys="instruction completions models",
    rank=16,
    fits=lambda row: (
        isinstance(row.get("completions"), list)
        and any(
            isinstance(one, dict) and ("annotations" in one or "overall_score" in one) for one in row["completions"]
        )
    ),
)
def read_ultrafeedback(row: Fields, options: Options) -> Item:
    """Ranked by the mean of the aspects' ratings, as its authors advise (`overall_score` has known errors)."""
    asked, completions = text(row, "instruction"), objects(row, "completions")
    texts = [text(one, "response") for one in completions]
    prompt = question(asked, "instruction")
    answers = [_rated(one, said, options) for one, said in zip(completions, texts, strict=True)]
    meta = {"dataset": row["source"]} if isinstance(row.get("source"), str) else {}
    return Item(key_of(prompt), prompt, answers, meta=meta)


def _rated(completion: Fields, said: str, options: Options) -> Answer:
    annotations = completion.get("annotations")
    aspects: dict[str, float] = {}
    for name, said_of in annotations.items() if isinstance(annotations, dict) else ():
        one = said_of[0] if isinstance(said_of, list) and said_of else said_of
        value = _rating(one.get("Rating") if isinstance(one, dict) else one, f"the rating of {name}")
        if value is not None:
            aspects[name] = value
    asked = options.policy.dimension
    score = aspects.get(asked) if asked else sum(aspects.values()) / len(aspects) if aspects else None
    if score is None and not asked:
        score = _rating(completion.get("fine-grained_score"), "'fine-grained_score'")
    model = completion.get("model")
    return Answer(answer(said, "response"), score, model if isinstance(model, str) else None, aspects)


@judged(
    "distilabel_ratings",
    "distilabel: `generations` with `ratings`",
    keys="instruction generations ratings generation_models system_prompt",
    rank=27,
    fits=lambda row: isinstance(row.get("generations"), list) and "ratings" in row,
)
def read_distilabel(row: Fields, options: Options) -> Item:
    """The rating ranks; a null rating is an answer that nobody rated."""
    asked = need(row, "instruction" if "instruction" in row or "prompt" not in row else "prompt")
    generations, ratings = _list(row, "generations"), _list(row, "ratings")
    if any(one is None for one in generations):
        raise BadRow("null_field", "a generation is null")
    prompt = question(asked, "instruction", system=optional_text(row, "system_prompt"))
    if len(generations) != len(ratings):
        raise BadRow("invalid_label", f"{len(ratings)} ratings for {len(generations)} generations")
    models = row.get("generation_models")
    names = models if isinstance(models, list) and len(models) == len(generations) else [None] * len(generations)
    answers: list[Answer] = []
    for said, given, model in zip(generations, ratings, names, strict=True):
        rating = _rating(given, "a rating")
        name = model if isinstance(model, str) else None
        answers.append(Answer(answer(said, "generations"), rating, name, {} if rating is None else {"rating": rating}))
    return Item(key_of(prompt), prompt, answers)


@judged(
    "helpsteer2",
    "NVIDIA HelpSteer2: one response a row with five ratings, grouped by prompt",
    keys="prompt response helpfulness correctness coherence complexity verbosity",
    rank=26,
    fits=lambda row: has(row, "prompt", "response") and "helpfulness" in row,
    grouped=True,
)
def read_helpsteer2(row: Fields, options: Options) -> Item:
    """Responses to one prompt are ranked by helpfulness, or by the dimension asked for."""
    field = options.dimension({name: name for name in HELPSTEER}, "helpfulness")
    asked, said = need(row, "prompt"), need(row, "response")
    need(row, field)
    prompt, response = question(asked, "prompt"), answer(said, "response")
    rated = {name: _rating(row.get(name), repr(name)) for name in HELPSTEER}
    scores = {name: value for name, value in rated.items() if value is not None}
    return Item(key_of(prompt), prompt, [Answer(response, scores.get(field), scores=scores)])


@judged(
    "nectar",
    "Nectar: up to seven answers with ranks, 1 = best",
    keys="prompt answers turns num_responses good_natured",
    rank=17,
    fits=lambda row: (
        isinstance(row.get("answers"), list) and any(isinstance(one, dict) and "rank" in one for one in row["answers"])
    ),
)
def read_nectar(row: Fields, options: Options) -> Item:
    """The prompt is a transcript that ends where the assistant is to answer; the lowest rank is the best."""
    asked, given = text(row, "prompt"), objects(row, "answers")
    for one in given:
        text(one, "answer")
        need(one, "rank")
    if not asked.strip():
        raise BadRow("empty_prompt", "the prompt has no text")
    prompt = question(list(turns(asked)), "prompt")
    answers: list[Answer] = []
    for one in given:
        rank, model = _rating(one["rank"], "'rank'"), one.get("model")
        score = None if rank is None else -rank
        answers.append(Answer(answer(one["answer"], "answer"), score, model if isinstance(model, str) else None))
    return Item(key_of(prompt), prompt, answers, ranked=True)
