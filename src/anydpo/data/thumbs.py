"""Thumbs up and down: answers with a yes or no each (KTO), paired where they answer an identical prompt."""

from __future__ import annotations

from anydpo.data.dialect import BadRow, Fields, judged
from anydpo.data.item import Answer, Item
from anydpo.data.pair import Messages, text_of
from anydpo.data.pairwise import key_of
from anydpo.data.policy import Decision, Options, Policy, pair_of
from anydpo.data.shape import answer, has, messages, need, question

GOOD = frozenset({"true", "1", "yes", "good", "up", "thumbs_up", "desirable", "chosen"})
BAD = frozenset({"false", "0", "no", "bad", "down", "thumbs_down", "undesirable", "rejected"})


def _thumb(value: object) -> float:
    word = str(value).strip().lower()
    if isinstance(value, float) and value.is_integer():
        word = str(int(value))
    if isinstance(value, (bool, int, float, str)) and word in GOOD | BAD:
        return 1.0 if word in GOOD else 0.0
    raise BadRow("invalid_label", f"'label' is {value!r}, expected true or false")


def pair_up(item: Item, policy: Policy) -> Decision:
    """Pair good answers with bad ones in their order, each used once (`pairs = "all"`: every good with every bad).

    An answer that was called both good and bad is neither; what finds no partner is `unpaired`.
    """
    rows = list(zip(item.answers, item.places, strict=True))
    both = {_said(a) for a in item.answers if a.score} & {_said(a) for a in item.answers if not a.score}
    decision = Decision([])
    for one, place in rows:
        if _said(one) in both:
            decision.left_out.append((place, BadRow("identical", "the same answer is called both good and bad")))
    good = [(a, p) for a, p in rows if a.score and _said(a) not in both]
    bad = [(a, p) for a, p in rows if not a.score and _said(a) not in both]
    tried = [(g, b) for g in good for b in bad] if policy.pairs == "all" else list(zip(good, bad, strict=False))
    used, refused = set[int](), dict[int, BadRow]()
    for (chosen, at), (rejected, other) in tried:
        try:
            decision.pairs.append(
                pair_of(item, chosen, rejected, {"source": str(at), "rows": [str(at), str(other)]}, None)
            )
            used |= {id(at), id(other)}
        except BadRow as reason:
            refused |= {id(at): reason, id(other): reason}
    alone = BadRow("unpaired", "no answer to the same prompt has the other label")
    for _, place in good + bad:
        if id(place) not in used:
            decision.left_out.append((place, refused.get(id(place), alone)))
    return decision


def _said(one: Answer) -> str:
    return "\n".join(text_of(message).strip() for message in one.messages)


@judged(
    "kto_unpaired",
    "TRL KTO: `prompt`, `completion`, `label` true or false",
    keys="prompt completion label",
    rank=34,
    fits=lambda row: has(row, "completion") and "label" in row,
    grouped=True,
    decide=pair_up,
)
def read_kto(row: Fields, options: Options) -> Item:
    """Text and messages that say the same are the same prompt."""
    asked, said, given = need(row, "prompt"), need(row, "completion"), need(row, "label")
    prompt = question(asked, "prompt")
    return _item(prompt, answer(said, "completion"), _thumb(given))


@judged(
    "llamafactory_kto",
    "LLaMA-Factory KTO: a conversation with `label` true or false for its last answer",
    keys="messages label",
    rank=35,
    fits=lambda row: isinstance(row.get("messages"), list) and "label" in row and "chosen" not in row,
    grouped=True,
    decide=pair_up,
)
def read_llamafactory_kto(row: Fields, options: Options) -> Item:
    """Everything before the last message is the prompt."""
    given, said = need(row, "messages"), need(row, "label")
    turns = messages(_plain(given), "messages")
    prompt = question(list(turns[:-1]), "messages")
    thumb = _thumb(said)
    if turns[-1]["role"] != "assistant":
        raise BadRow("role_order", f"the last message is from {turns[-1]['role']}, expected an answer")
    return _item(prompt, turns[-1:], thumb)


def _plain(given: object) -> object:
    """Return messages whose file uses ShareGPT's `from` and `value` in the usual shape."""
    names = {"human": "user", "gpt": "assistant"}
    if isinstance(given, list) and all(isinstance(turn, dict) and "from" in turn for turn in given):
        return [{"role": names.get(str(turn["from"]), turn["from"]), "content": turn.get("value")} for turn in given]
    return given


def _item(prompt: Messages, said: Messages, thumb: float) -> Item:
    return Item(key_of(prompt), prompt, [Answer(said, thumb)])
