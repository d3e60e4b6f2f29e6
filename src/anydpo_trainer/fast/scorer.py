"""The scorer of the fast path: forks to one row, one run of the model's body, log-probabilities from its states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from anydpo_trainer.batch import Fork, micro_batches
from anydpo_trainer.fast.embed import embed
from anydpo_trainer.fast.head import Head, Predictions, predict
from anydpo_trainer.fast.layout import Layout, lay_out, tokens_of
from anydpo_trainer.logprobs import PlainScorer, TokenScores, TokenStats, device_of

PREPARED = "anydpo_prepared"  # set on a model whose attention and last layer know layouts
METHOD = "anydpo_predict"  # set on a sharded model: `predictions`, with its weights gathered


@dataclass
class SharedScorer:
    """Each prompt once, its completions behind it. A model that was not prepared for that is run plainly."""

    tokens: int = 1024
    store_bytes: float = 1e9  # exponentials that may be kept for the backward pass; above it they are computed again
    in_place: bool = True  # gradients of embeddings and output layer may be added up where they will be
    name: str = "shared"
    plain: PlainScorer = field(default_factory=PlainScorer)

    def cost(self, fork: Fork) -> int:
        """Return the tokens of the fork, its prompt once."""
        return tokens_of(fork)

    def cut(self, indices: Sequence[int], costs: Sequence[int], size: int | None) -> list[list[int]]:
        """Return a batch as rows of several forks each, without padding."""
        return micro_batches(indices, costs, size, self.tokens, padded=False)

    def score(self, model: Any, forks: Sequence[Fork], *, wpo: bool = False, stats: bool = False) -> TokenScores:
        """Run the model on one row of all forks."""
        if not hasattr(whole(model), PREPARED):
            return self.plain.score(model, forks, wpo=wpo, stats=stats)
        layout = lay_out(forks).to(device_of(model))
        run = getattr(model, METHOD, None)
        made = run(layout, self, wpo, stats) if run else predictions(model, layout, self, wpo, stats)
        return _table(layout, made)


def predictions(model: Any, layout: Layout, scorer: SharedScorer, wpo: bool, stats: bool) -> Predictions:
    """Run the model's body on a row and predict from its hidden states."""
    inner = whole(model)
    # A mask of four dimensions is taken as ready made; the attention goes by the layout
    ready = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=layout.input_ids.device)
    embedded = embed(inner.get_input_embeddings(), layout.input_ids) if scorer.in_place else None
    output = inner.get_decoder()(
        input_ids=layout.input_ids if embedded is None else None,
        inputs_embeds=embedded,
        position_ids=layout.position_ids,
        attention_mask=ready,
        use_cache=False,
        layout=layout,
    )
    hidden = output.last_hidden_state[0].index_select(0, layout.read)
    head = inner.get_output_embeddings()
    return predict(hidden, layout.rows, layout.labels, _head_of(head, hidden, scorer, wpo=wpo, stats=stats))


def whole(model: Any) -> Any:
    """Return the causal language model itself, without an adapter's wrapper."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def _head_of(layer: Any, hidden: Tensor, scorer: SharedScorer, *, wpo: bool, stats: bool) -> Head:
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else layer.weight.dtype
    store = 4.0 * hidden.shape[0] * layer.weight.shape[0] <= scorer.store_bytes
    return Head(layer.weight, layer.bias, dtype, store=store, in_place=scorer.in_place, squares=wpo, stats=stats)


def _table(layout: Layout, made: Predictions) -> TokenScores:
    """Return predictions as the plain path gives them: a row for each completion."""

    def total(values: Tensor | None) -> Tensor:
        assert values is not None
        return layout.spread(values).sum(dim=1)

    totals = None
    if made.entropy is not None and made.logit is not None:
        entropy, logit = made.entropy[layout.rows], made.logit[layout.rows]
        totals = TokenStats(total(entropy), total(logit), total(made.correct))
    squares = None if made.log_sum_sq is None else layout.spread(made.log_sum_sq[layout.rows])
    mask = layout.spread(torch.ones_like(made.logps, requires_grad=False)).bool()
    return TokenScores(layout.spread(made.logps), mask, squares, totals)
