"""Token ids: one BOS, one EOS, the template's own boundary, no lost end token.

Each case is a bug that was reported against a popular trainer; the tokenizers are made here, in the shapes of the
families the reports are about (Llama with BOS, Qwen without, one that ends every text, SentencePiece-like).
"""

from __future__ import annotations

import logging
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from anydpo_trainer import tiny
from anydpo_trainer.errors import TrainerError
from anydpo_trainer.tokenise import Encoder, sft_rows

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WITH_BOS = "<s>" + CHATML
THINKING = (  # writes an empty thought into a last answer, as some thinking models' templates do
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ENDLESS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
OTHERWISE = (  # the prompt ends in words that no conversation has
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant] now answer:{% endif %}"
)
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]


def make(
    *, bos: bool = False, adds: str = "", eos: str = "</s>", template: str | None = None, metaspace: bool = False
) -> Any:
    """A byte-level tokenizer that adds BOS before and/or EOS after every text, as told."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, "▁", *alphabet])}
    made = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    made.add_special_tokens(SPECIAL)
    if metaspace:
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
    else:
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
    if adds:
        ids = [(token, vocabulary[token]) for token in ("<s>", "</s>")]
        made.post_processor = processors.TemplateProcessing(single=adds, special_tokens=ids)
    family: Any = PreTrainedTokenizerFast
    return family(tokenizer_object=made, bos_token="<s>" if bos else None, eos_token=eos, chat_template=template)


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


def row(prompt: str = "Hi there", chosen: str = " blue.", rejected: str = " green.") -> dict[str, Any]:
    return {"prompt": user(prompt), "chosen": assistant(chosen), "rejected": assistant(rejected)}


def encode(tokenizer: Any, *rows: dict[str, Any], template: str = "auto", **options: Any) -> tuple[list[Any], Encoder]:
    encoder = Encoder(tokenizer, template, options.pop("max_length", 400), **options)
    return list(encoder.pairs(rows)), encoder


def text(tokenizer: Any, ids: Any) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False))


def test_plain_text_is_kept_and_ended_once() -> None:
    tokenizer = make(bos=True, adds="<s> $A")
    (pair,), encoder = encode(tokenizer, row("The sky is"))
    assert encoder.template_name.startswith("none")
    assert text(tokenizer, pair.prompt) == "<s>The sky is"
    assert text(tokenizer, pair.chosen) == " blue.</s>"
    assert text(tokenizer, pair.rejected) == " green.</s>"


def test_no_bos_is_made_up_where_the_tokenizer_has_none() -> None:
    """trl#1073: None was put before prompts of Qwen models."""
    tokenizer = make()
    (pair,), _ = encode(tokenizer, row("The sky is"))
    assert text(tokenizer, pair.prompt) == "The sky is"
    assert None not in [*pair.prompt, *pair.chosen, *pair.rejected]


def test_a_tokenizer_that_ends_every_text_ends_no_prompt() -> None:
    tokenizer = make(bos=True, adds="<s> $A </s>")
    (pair,), _ = encode(tokenizer, row("The sky is"))
    assert text(tokenizer, pair.prompt) == "<s>The sky is"
    assert text(tokenizer, pair.chosen) == " blue.</s>"


def test_an_end_token_in_the_text_is_not_doubled() -> None:
    tokenizer = make()
    (pair,), _ = encode(tokenizer, row("The sky is", " blue.</s>", " green."))
    assert text(tokenizer, pair.chosen) == " blue.</s>"


@pytest.mark.parametrize("adds", ["", "<s> $A", "<s> $A </s>"])
@pytest.mark.parametrize("template", [CHATML, WITH_BOS])
def test_a_template_is_the_only_one_that_writes_special_tokens(adds: str, template: str) -> None:
    """axolotl#1616, trl PR 1591, trl#4481: BOS again before the answers, BOS and EOS beside the template's own."""
    tokenizer = make(bos=True, adds=adds, eos="<|im_end|>", template=template)
    (pair,), encoder = encode(tokenizer, row("Hi", "Hello!", "Go."))
    assert encoder.template_name == "the tokenizer's own"
    start = "<s>" if template == WITH_BOS else ""
    assert text(tokenizer, pair.prompt) == f"{start}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert text(tokenizer, pair.chosen) == "Hello!<|im_end|>\n"
    assert text(tokenizer, pair.rejected) == "Go.<|im_end|>\n"
    assert text(tokenizer, [*pair.prompt, *pair.chosen]).count("<s>") == len(start) // 3


def test_an_answer_that_the_template_does_not_end_gets_its_end_token() -> None:
    tokenizer = make(template=ENDLESS)
    (pair,), _ = encode(tokenizer, row("Hi", "Hello!", "Go."))
    assert text(tokenizer, pair.chosen).rstrip("\n").replace("\n", "") == "Hello!</s>"
    assert list(pair.chosen).count(tokenizer.eos_token_id) == 1


def test_the_thought_that_a_template_adds_belongs_to_the_answer() -> None:
    """trl#5213: a template that adds an empty thought is no mismatch of the prompt."""
    tokenizer = make(eos="<|im_end|>", template=THINKING)
    (pair,), encoder = encode(tokenizer, row("Hi", "Hello!", "Go."))
    assert text(tokenizer, pair.prompt).endswith("<|im_start|>assistant\n")
    assert text(tokenizer, pair.chosen) == "<think>\n\n</think>\n\nHello!<|im_end|>\n"
    assert not encoder._boundary_warned


def test_a_prompt_that_the_template_rewrites_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """trl#6105: warned about on every row; here once, and both answers begin at the same place."""
    tokenizer = make(template=OTHERWISE)
    logging.getLogger("anydpo_trainer").propagate = True
    with caplog.at_level("WARNING", logger="anydpo_trainer"):
        pairs, _ = encode(tokenizer, row("Hi", "nice", "no"), row("Ho", "a", "b"))
    assert len([r for r in caplog.records if "writes the prompt otherwise" in r.message]) == 1
    # The prompt alone goes on with "now answer:", which begins like both answers; they keep their letters
    assert text(tokenizer, pairs[0].prompt) == "[user] Hi</s>[assistant] "
    assert [text(tokenizer, ids) for ids in pairs[0][1:3]] == ["nice</s>", "no</s>"]
    assert [text(tokenizer, ids) for ids in pairs[1][1:3]] == ["a</s>", "b</s>"]


def test_joint_tokenisation_where_a_token_spans_the_boundary() -> None:
    """A SentencePiece-like tokenizer would begin a text tokenised alone with a space of its own."""
    tokenizer = make(metaspace=True)
    (pair,), _ = encode(tokenizer, row("The sky is", " blue", " red"))
    whole = tokenizer("The sky is blue")["input_ids"] + [tokenizer.eos_token_id]
    assert [*pair.prompt, *pair.chosen] == whole


def test_a_pair_that_does_not_fit_is_left_out_whole_with_its_line() -> None:
    """trl#5662, #3382: rows without an answer, NaN; here never trained half."""
    tokenizer = make()
    long = {**row("x" * 50), "meta": {"source": "prefs.jsonl:7"}}
    pairs, encoder = encode(tokenizer, row("ok", " a", " b"), long, max_length=20)
    assert len(pairs) == 1
    assert encoder.refused.counts == {"too_long": 1}
    assert encoder.refused.rows == [
        {"source": "prefs.jsonl:7", "reason": "too_long", "detail": "58 tokens, max_length is 20"}
    ]


def test_truncation_when_asked_for_keeps_the_prompt_and_cuts_answers() -> None:
    tokenizer = make()
    pairs, encoder = encode(
        tokenizer, row("abcd", "efghijkl", "m"), row("x" * 9), max_length=8, truncation="keep_start"
    )
    assert [text(tokenizer, ids) for ids in pairs[0][:3]] == ["abcd", "efgh", "m</s>"]
    assert encoder.refused.counts == {"too_long": 1}  # a prompt alone has no answer to learn


def test_roles_without_a_template_are_refused_with_advice() -> None:
    conversation = {**row(), "prompt": [*user("Hi"), *assistant("Hello"), *user("Why?")]}
    with pytest.raises(TrainerError, match="no chat template") as found:
        encode(make(), conversation)
    assert "Jinja" in (found.value.hint or "")


def test_template_from_a_file_and_none(tmp_path: Any) -> None:
    path = tmp_path / "t.jinja"
    path.write_text(CHATML)
    tokenizer = make(eos="<|im_end|>", template=ENDLESS)
    (pair,), encoder = encode(tokenizer, row("Hi", "Yo", "No"), template=str(path))
    assert encoder.template_name == str(path)
    assert text(tokenizer, pair.chosen) == "Yo<|im_end|>\n"
    (plain,), encoder = encode(tokenizer, row("Hi", " Yo", " No"), template="none")
    assert encoder.template_name == "none"
    assert text(tokenizer, plain.prompt) == "Hi"
    with pytest.raises(TrainerError, match="no file"):
        encode(tokenizer, row(), template="/nowhere.jinja")


def test_tool_arguments_reach_the_template_as_an_object() -> None:
    template = (
        "{% for m in messages %}{% if m.tool_calls %}{{ m.tool_calls[0].function.arguments.order }}{% else %}"
        "{{ m.content }}{% endif %}</s>{% endfor %}"
    )
    call = {"id": "c", "type": "function", "function": {"name": "look_up", "arguments": '{"order":"7"}'}}
    calling = {"role": "assistant", "content": None, "tool_calls": [call]}
    tokenizer = make(template=template)
    (pair,), _ = encode(tokenizer, {"prompt": user("Hi"), "chosen": [calling], "rejected": assistant("No")})
    assert text(tokenizer, pair.chosen) == "7</s>"


def test_supervised_rows_are_one_an_answer() -> None:
    chat = [*user("a"), *assistant("b"), *user("c"), *assistant("d")]
    rows = list(sft_rows([{"messages": chat}], chosen=False))
    assert [(len(r["prompt"]), r["completion"][0]["content"]) for r in rows] == [(1, "b"), (3, "d")]
    rows = list(sft_rows([row()], chosen=True))
    assert rows == [{"prompt": user("Hi there"), "completion": assistant(" blue.")}]


def test_tiny_reads_and_writes_every_text() -> None:
    tokenizer = tiny.make_tokenizer()
    for sample in ("Happy to help! 30 days.", "Größe 😀\n\tx", "<|end|> inside", "日本語"):
        assert tokenizer.decode(tokenizer(sample)["input_ids"]) == sample


def test_tiny_depends_on_the_seed_alone() -> None:
    import torch

    torch.manual_seed(1)
    first = tiny.make_model(0)
    torch.manual_seed(2)
    again, other = tiny.make_model(0), tiny.make_model(1)
    count = sum(weight.numel() for weight in first.parameters())
    assert 0.9e6 < count < 1.2e6
    pairs = list(zip(first.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)
