"""Pairs already decided, with scores, models or a picture beside them: UltraFeedback (binarized), distilabel, Argilla
(binarized), orca, RLAIF-V."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anydpo.data.dialect import BadRow, Fields, reader
from anydpo.data.pair import Message, Messages, PreferencePair
from anydpo.data.pictures import picture_uri
from anydpo.data.shape import answer, build, has, need, number, optional_text, question, shared_prompt


def margin_of(row: Fields, chosen: str, rejected: str) -> float | None:
    """Return how much better the chosen answer's score is; refuses ties and scores that contradict the label."""
    high, low = number(row, chosen), number(row, rejected)
    if high is None or low is None:
        return None
    if high < low:
        raise BadRow("score_contradicts_label", f"{chosen!r} is {high:g}, {rejected!r} is {low:g}")
    if high == low:
        raise BadRow("tie", f"{chosen!r} and {rejected!r} are both {high:g}")
    return round(high - low, 6)


def kept(row: Fields, names: Mapping[str, str]) -> dict[str, Any]:
    """Return the columns worth keeping beside the pair, under our names."""
    return {ours: row[theirs] for ours, theirs in names.items() if row.get(theirs) is not None}


def _both(row: Fields, prompt: str, chosen: str, rejected: str) -> tuple[Any, Any, Any]:
    return need(row, prompt), need(row, chosen), need(row, rejected)


def _transcripts(row: Fields, meta: dict[str, Any], high: str, low: str, names: Mapping[str, str]) -> PreferencePair:
    asked, better, worse = _both(row, "prompt", "chosen", "rejected")
    prompt = question(asked, "prompt")
    margin = margin_of(row, high, low)
    chosen, rejected = answer(better, "chosen"), answer(worse, "rejected")
    whole = all(side and side[0]["role"] in ("system", "user") for side in (chosen, rejected))
    said = shared_prompt(chosen, rejected) if whole else (prompt, chosen, rejected)
    return build(*said, {**meta, **kept(row, names)}, margin=margin)


@reader(
    "ultrafeedback_binarized",
    "UltraFeedback binarized: whole conversations with `score_chosen`, `score_rejected`",
    keys="prompt chosen rejected score_chosen score_rejected messages prompt_id",
    rank=31,
    fits=lambda row: has(row, "chosen", "rejected") and ("score_chosen" in row or "score_rejected" in row),
)
def read_ultrafeedback(row: Fields, meta: dict[str, Any]) -> PreferencePair:
    """The conversations decide what the prompt is; equal scores are a tie."""
    return _transcripts(row, meta, "score_chosen", "score_rejected", {})


@reader(
    "distilabel_dpo",
    "distilabel DPO: whole conversations with `chosen_rating`, `rejected_rating`",
    keys="prompt chosen rejected chosen_rating rejected_rating chosen_model rejected_model",
    rank=30,
    fits=lambda row: has(row, "chosen", "rejected") and ("chosen_rating" in row or "rejected_rating" in row),
)
def read_distilabel(row: Fields, meta: dict[str, Any]) -> PreferencePair:
    """The conversations decide what the prompt is; `prompt` may be their first user turn only."""
    names = {"chosen_model": "chosen_model", "rejected_model": "rejected_model"}
    return _transcripts(row, meta, "chosen_rating", "rejected_rating", names)


@reader(
    "argilla_binarized",
    "Argilla binarized: `instruction`, `chosen_response`, `rejected_response`",
    keys="instruction chosen_response rejected_response chosen_avg_rating rejected_avg_rating",
    rank=36,
    fits=lambda row: has(row, "instruction", "chosen_response", "rejected_response"),
)
def read_argilla(row: Fields, meta: dict[str, Any]) -> PreferencePair:
    """The margin is the difference of the average ratings."""
    asked, better, worse = _both(row, "instruction", "chosen_response", "rejected_response")
    prompt = question(asked, "instruction", system=optional_text(row, "system"))
    high, low = ("chosen_avg_rating", "rejected_avg_rating") if "chosen_avg_rating" in row else (
        "chosen_rating", "rejected_rating")  # fmt: skip
    margin = margin_of(row, high, low)
    meta |= kept(row, {name: name for name in ("chosen_model", "rejected_model")})
    return build(prompt, answer(better, "chosen_response"), answer(worse, "rejected_response"), meta, margin=margin)


@reader(
    "orca_dpo_pairs",
    "Intel orca_dpo_pairs, and distilabel's re-rating of it with `input` and `status`",
    keys="system question chosen rejected",
    rank=50,
    fits=lambda row: (
        has(row, "chosen", "rejected")
        and (has(row, "question") or (has(row, "input") and "status" in row and "chosen_score" in row))
    ),
)
def read_orca(row: Fields, meta: dict[str, Any]) -> PreferencePair:
    """An empty or null system is no system message; a re-rated row whose status is "tie" is one."""
    field = "input" if "question" not in row and "input" in row else "question"
    asked, better, worse = _both(row, field, "chosen", "rejected")
    prompt = question(asked, field, system=optional_text(row, "system"))
    if row.get("status") == "tie":
        raise BadRow("tie", "'status' is 'tie'")
    return build(prompt, answer(better, "chosen"), answer(worse, "rejected"), meta)


@reader(
    "rlaif_v",
    "RLAIF-V: an embedded picture, `question`, `chosen`, `rejected`",
    keys="image question chosen rejected ds_name origin_dataset image_path",
    rank=21,
    fits=lambda row: has(row, "image", "question") and "chosen" in row,
)
def read_rlaif(row: Fields, meta: dict[str, Any]) -> PreferencePair:
    """The picture becomes a data URI, so that the pair needs no other file."""
    picture = need(row, "image")
    asked, better, worse = _both(row, "question", "chosen", "rejected")
    prompt = question(asked, "question")
    uri = picture_uri(picture, row.get("image_path"))
    parts = [{"type": "image", "image": uri}, {"type": "text", "text": prompt[-1]["content"]}]
    shown: Messages = (*prompt[:-1], Message({**prompt[-1], "content": parts}))
    meta |= kept(row, {"dataset": "origin_dataset"})
    return build(shown, answer(better, "chosen"), answer(worse, "rejected"), meta)
