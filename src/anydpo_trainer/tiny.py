"""`tiny`: a Llama of about a million parameters with its own tokenizer, made on the spot, for a CPU.

Tokenizer and weights depend on this package and the seed only: the vocabulary is 256 bytes and a list of common
English words, and the weights are drawn by our own rule, so that no library's defaults can move them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

VERSION = 1
VOCABULARY = 2048
SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + (m.content or '') + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PIECES = (
    "ing ed er es tion sion ment ly able ible ness est al ive ous ity ence ance ful less ist ism ize ise ary ory "
    "'s 't 're 'll 've 'm 'd n't th he in an re on at en nd ti or te is it ar st to nt ng se ha as ou io le ve co "
    "me de hi ri ro ic ne ea ra ce li ch ll be ma si om ur ca el ta la ns di fo ho pe ec pr no ct us ac ot il tr ly "
    "nc et ut ss so rs un lo wa ge ie wh ee wi em ad ol rt po we na ul ni ts mo ow pa im mi ai sh ir su id os iv ia "
    "am fi ci vi pl ig tu ev ld ry mp fe bl ab gh ty op wo sa ay ex ke ui fr oo ag do bo"
).split()


def save(folder: Path, seed: int) -> None:
    """Write tokenizer and weights of `tiny` with this seed to an existing folder."""
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    make_model(seed).save_pretrained(folder)


def make_tokenizer() -> Any:
    """Return the tokenizer: byte-level, with whole common words, so that every text has ids."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = [(token, 0.0) for token in SPECIAL]
    vocabulary += [(byte, -14.0) for byte in sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces = _pieces()[: VOCABULARY - len(vocabulary)]
    vocabulary += [(piece, -6.0 - rank / len(pieces)) for rank, piece in enumerate(pieces)]
    made = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=False))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    make: Any = PreTrainedTokenizerFast
    return make(
        tokenizer_object=made,
        pad_token="<|pad|>",  # noqa: S106 - not a secret
        eos_token="<|end|>",  # noqa: S106
        additional_special_tokens=list(SPECIAL[2:]),
        chat_template=TEMPLATE,
        model_max_length=1024,
    )


def make_model(seed: int) -> Any:
    """Return the model with weights drawn from this seed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    model: Any = LlamaForCausalLM(config)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if weight.ndim == 1:
                weight.fill_(1.0)
            else:
                # Projections back into the residual stream start smaller, so that depth does not add up
                scale = 0.02 if not name.endswith(("o_proj.weight", "down_proj.weight")) else 0.007
                weight.copy_(torch.randn(weight.shape, generator=draw) * scale)
    return model


def _pieces() -> list[str]:
    """Return word pieces, most useful first, as byte-level BPE spells them: G-dot for a leading space."""
    words = (Path(__file__).parent / "tiny_words.txt").read_text("utf-8").split()
    common = words[:240]
    ordered = [f"Ġ{word}" for word in words]
    ordered += PIECES
    ordered += [made for word in common if len(word) > 1 for made in (word.capitalize(), f"Ġ{word.capitalize()}")]
    ordered += [word for word in words if len(word) > 2]
    return list(dict.fromkeys(piece for piece in ordered if len(piece) > 1))
