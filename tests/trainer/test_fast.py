"""The fast path against the plain one: the same losses and gradients, for every kind of model it takes."""

from __future__ import annotations

import copy
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from anydpo_trainer import model as models
from anydpo_trainer import tiny
from anydpo_trainer.batch import Fork
from anydpo_trainer.config import LoRA, Method
from anydpo_trainer.engine import Stopped
from anydpo_trainer.errors import TrainerError
from anydpo_trainer.fast import blocks, choose, fit, head, layout
from anydpo_trainer.fast import budget as budgets
from anydpo_trainer.fast.attention import sees
from anydpo_trainer.fast.embed import clear_gradients, embed
from anydpo_trainer.fast.scorer import SharedScorer
from anydpo_trainer.logprobs import PlainScorer, Scorer, pair_scores
from anydpo_trainer.losses import pair_losses
from tests.trainer.helpers import run, same, small_model, text_pairs, write_jsonl

VOCABULARY = 300
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
FORKS: list[Fork] = [
    Fork(array("i", prompt), tuple(array("i", branch) for branch in branches))
    for prompt, branches in (
        ([5, 6, 7, 8, 9, 10, 11], ([20, 21, 22, 23], [30, 31, 32, 33, 34, 35])),
        ([5], ([40], [41, 42])),  # nothing but a first token; one answer of a single token
        ([9, 8, 7], ([50, 51, 52, 53], [50, 51, 60])),  # two tokens in common
        ([9, 8, 7, 6], ([70, 71], [70, 71, 72, 73, 74])),  # one answer begins the other
        ([3, 4], ([80, 81, 82], [80, 81, 82])),  # no difference at all
    )
]


def make(kind: str, **options: Any) -> Any:
    torch.manual_seed(1)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **options})
    model: Any = getattr(transformers, f"{kind}ForCausalLM")(config)
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # torch's grouped product knows no float64
    return model.double().eval()


def shared(model: Any, **options: Any) -> tuple[Any, SharedScorer]:
    """A copy of the model that takes the fast path; refused is an error here."""
    other, scorer = copy.deepcopy(model), SharedScorer(**options)
    assert fit.adopt(other, scorer, FORKS[:2], longest=64) is None
    return other, scorer


def gradients(
    model: Any, scorer: Scorer, parts: Sequence[Sequence[Fork]], method: Method
) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses of all pairs and the gradients of their sum."""
    model.zero_grad()
    losses = []
    for part in parts:
        tokens = scorer.score(model, part, wpo=method.use_weighting, stats=True)
        value = pair_losses(pair_scores(tokens, method), method, tokens_per_pair=3.0)
        torch.autograd.backward(value.sum())
        losses.append(value.detach())
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return torch.cat(losses), found


def agree(one: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]]) -> None:
    assert (one[0] - other[0]).abs().max() < 1e-12
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        assert (value - other[1][name]).abs().max() <= 1e-6 * value.abs().max(), name


METHOD = Method(loss_type=("sigmoid", "sft"), loss_weights=(1.0, 0.5), reference_free=True, beta=0.5)
KINDS: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Llama tied": {"tie_word_embeddings": True},
    "Qwen2": {},
    "Qwen3": {},
    "Mistral": {"sliding_window": None},
    "Gemma": {},
    "Phi3": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}},
    "Olmo2": {},
    "Mixtral": {"num_local_experts": 4},
}


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_those_of_the_plain_path(kind: str) -> None:
    model = make(kind.split()[0], **KINDS[kind])
    wanted = gradients(model, PlainScorer(), [FORKS], METHOD)
    agree(wanted, gradients(*shared(model), [FORKS], METHOD))


@pytest.mark.parametrize("store", [True, False], ids=["kept", "recomputed"])
@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_order_and_cut_change_nothing(store: bool, in_place: bool, tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is packed with what, in slices of the vocabulary or whole, kept or computed again."""
    model = make("Llama", tie_word_embeddings=tied)
    wanted = gradients(model, PlainScorer(), [[fork] for fork in FORKS], METHOD)
    other, scorer = shared(model, in_place=in_place, store_bytes=1e9 if store else 0.0)
    monkeypatch.setattr(head, "SLICE", 77)
    agree(wanted, gradients(other, scorer, [FORKS], METHOD))
    agree(wanted, gradients(other, scorer, [FORKS[:2], FORKS[2:]], METHOD))
    backwards = gradients(other, scorer, [FORKS[::-1]], METHOD)
    agree(wanted, (backwards[0].flip(0), backwards[1]))


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], ["gate_proj", "down_proj", "o_proj"]], ids=str)
def test_adapters_and_their_reference(targets: Any) -> None:
    torch.manual_seed(2)
    model = models.add_adapter(
        make("Llama").float(), LoRA(r=2, target_modules=targets if isinstance(targets, str) else tuple(targets))
    ).double()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    other, scorer = shared(model)
    agree(gradients(model, PlainScorer(), [FORKS], METHOD), gradients(other, scorer, [FORKS], METHOD))
    with models.Reference(model).active() as plain, models.Reference(other).active() as fast:
        wanted, found = PlainScorer().score(plain, FORKS), scorer.score(fast, FORKS)
        with_adapter = scorer.score(other, FORKS)
    assert (wanted.logps[wanted.mask] - found.logps[found.mask]).abs().max() < 1e-12
    assert torch.equal(with_adapter.logps, found.logps)  # still without the adapter in there
    assert not torch.allclose(scorer.score(other, FORKS).logps, found.logps)


@pytest.mark.parametrize(
    "method",
    [
        Method(use_weighting=True, reference_free=True, ld_alpha=0.3),
        Method(loss_type=("orpo",)),
        Method(loss_type=("simpo",), beta=2.0),
    ],
    ids=["wpo", "orpo", "simpo"],
)
def test_what_losses_and_metrics_need_is_there(method: Method) -> None:
    model = make("Qwen2")
    other, scorer = shared(model)
    agree(gradients(model, PlainScorer(), [FORKS], method), gradients(other, scorer, [FORKS], method))
    wanted = PlainScorer().score(model, FORKS, wpo=True, stats=True)
    found = scorer.score(other, FORKS, wpo=True, stats=True)
    assert torch.equal(wanted.mask.sum(dim=1), found.mask.sum(dim=1))
    assert wanted.stats is not None
    assert found.stats is not None
    for name in ("entropy", "logit", "correct"):
        assert (getattr(wanted.stats, name) - getattr(found.stats, name)).abs().max() < 1e-10, name


def test_checkpointed_layers_know_their_row() -> None:
    model = make("Llama").train()
    other, scorer = shared(model)
    other.train()
    wanted = gradients(model, PlainScorer(), [FORKS], METHOD)
    models.checkpoint_activations(other)
    agree(wanted, gradients(other, scorer, [FORKS], METHOD))


def test_a_prepared_model_still_runs_plainly_and_so_does_its_copy() -> None:
    model = make("Llama")
    other, _ = shared(model)
    ids = torch.tensor([[5, 6, 7, 8, 0, 0], [9, 10, 11, 12, 13, 14]])
    mask = (ids > 0).long()
    for changed in (other, copy.deepcopy(other)):
        assert torch.allclose(
            model(ids, attention_mask=mask).logits[mask > 0], changed(ids, attention_mask=mask).logits[mask > 0]
        )
    text = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(ids[1:], **text), other.generate(ids[1:], **text))


def test_the_row_shares_what_is_common_and_leaves_out_what_predicts_nothing() -> None:
    found = layout.lay_out(FORKS[2:4])
    assert found.input_ids.tolist() == [[9, 8, 7, 50, 51, 52, 9, 8, 7, 6, 70, 71, 72, 73]]
    assert found.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 6, 7]]
    assert found.read.tolist() == [2, 3, 4, 5, 9, 10, 11, 12, 13]
    assert found.spread(found.labels).tolist() == [
        [50, 51, 52, 53, 0],
        [70, 71, 0, 0, 0],
        [50, 51, 60, 0, 0],
        [70, 71, 72, 73, 74],
    ]
    assert sum(layout.tokens_of(fork) for fork in FORKS[2:4]) == found.input_ids.shape[1]


def test_what_each_position_sees_in_the_mask_for_gpus() -> None:
    """The rule that FlexAttention is given, against the paths of the tree written out."""
    row = layout.lay_out(FORKS)
    fork, branch = sees(row)
    place = torch.arange(len(fork))
    visible = (fork[:, None] == fork) & (place <= place[:, None]) & ((branch == 0) | (branch == branch[:, None]))
    for number, segment in enumerate(row.segments):
        at = segment.start + segment.trunk
        for length in segment.branches:
            path = [*range(segment.start, segment.start + segment.trunk), *range(at, at + length)]
            for i, position in enumerate(path):
                assert visible[position].nonzero().squeeze(1).tolist() == path[: i + 1], (number, position)
            at += length


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: make("Mistral", sliding_window=16), "sliding window of 16 tokens"),
        (lambda: make("Gemma2"), "softcapping"),
        (lambda: make("Cohere"), "logit_scale"),
        (lambda: make("Llama", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}), "rotary"),
        (lambda: models.add_adapter(make("Llama"), LoRA(r=2, target_modules=("lm_head",))), "output layer"),
        (
            lambda: transformers.MambaForCausalLM(
                transformers.MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4)
            ),
            "recurrent|replaced",
        ),
    ],
    ids=["window", "softcap", "logit-scale", "dynamic-rope", "adapter-on-head", "recurrent"],
)
def test_models_that_cannot_are_told_by_their_configuration(build: Callable[[], Any], reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(fit.refusal(build(), longest=64))


def test_a_model_that_only_its_numbers_give_away_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """An output layer that another part of the model scales: nothing says so but the result."""
    model = make("Llama")
    forward = type(model).forward

    def scaled(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        output.logits = output.logits * 1.7
        return output

    monkeypatch.setattr(type(model), "forward", scaled)
    scorer = SharedScorer()
    before = PlainScorer().score(model, FORKS)
    reason = fit.adopt(model, scorer, FORKS[:2], longest=64)
    assert reason is not None
    assert "off by" in reason
    assert torch.equal(scorer.score(model, FORKS).logps, before.logps)


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    return {
        "model": str(small_model(tmp_path / "model")),
        "train_data": str(write_jsonl(tmp_path / "train.jsonl", text_pairs(12))),
        "batch_size": 4,
        "learning_rate": 1e-3,
        "dtype": "float64",
    }


def test_a_run_on_either_path_ends_in_the_same_weights(job: dict[str, Any], tmp_path: Path) -> None:
    extra: dict[str, Any] = {
        "sft": {"data": "chosen", "learning_rate": 1e-3},
        "method": {"loss_type": ["sigmoid", "sft"]},
    }
    fast, wanted = run(tmp_path / "a", **job, **extra)
    plain, found = run(tmp_path / "b", **job, **extra, prefix_sharing=False)
    assert (fast.effective["passes"]["path"], fast.effective["passes"]["reason"]) == ("shared", None)
    assert (plain.effective["passes"]["path"], plain.effective["passes"]["reason"]) == (
        "plain",
        "prefix_sharing = false",
    )
    assert same(wanted, found, 1e-6)


def test_what_stands_against_the_fast_path_is_in_the_result(job: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.MistralConfig(**{**SIZES, "vocab_size": tiny.VOCABULARY, "sliding_window": 8})
    kind: Any = transformers.MistralForCausalLM
    kind(config).save_pretrained(tmp_path / "mistral")
    tiny.make_tokenizer().save_pretrained(tmp_path / "mistral")
    report, _ = run(tmp_path / "out", **{**job, "model": str(tmp_path / "mistral")}, max_steps=1)
    assert report.effective["passes"]["path"] == "plain"
    assert "sliding window of 8 tokens" in report.effective["passes"]["reason"]


def test_layers_are_checkpointed_only_where_memory_asks_for_it(
    job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_room, wanted = run(tmp_path / "a", **job)
    monkeypatch.setattr(choose, "_room", lambda *_: 1000.0)
    without, found = run(tmp_path / "b", **job)
    assert [r.effective["gradient_checkpointing"] for r in (with_room, without)] == [False, True]
    assert without.effective["passes"]["keeps_softmax"] is False
    assert same(wanted, found, 1e-9)


def test_a_resumed_run_cuts_its_forward_passes_as_it_began(
    job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "LEAST", 60)
    monkeypatch.setattr(choose, "_room", lambda *_: 1e6)  # another amount of memory is free each time
    begun = tmp_path / "out" / "metrics.jsonl"
    with pytest.raises(Stopped):
        run(tmp_path / "out", **job, stop=lambda: "interrupted" if begun.exists() and begun.read_text() else None)
    monkeypatch.setattr(choose, "_room", lambda *_: 1e9)
    other, _ = run(tmp_path / "other", **job)
    resumed, _ = run(tmp_path / "out", **job)
    assert resumed.effective["passes"]["tokens"] < other.effective["passes"]["tokens"]


def test_memory_decides_how_much_is_kept() -> None:
    weight = make("Llama")  # 300 logits in float32 are 1,200 bytes a position
    plenty, tight, none = (budgets.budget(weight, 1000.0, [600, 500, 400], room) for room in (1e9, 700e3, 500e3))
    assert (plenty.tokens, plenty.store > 0, plenty.checkpoint) == (budgets.MOST_CPU, True, False)
    assert (tight.tokens, tight.store, tight.checkpoint) == (700, 0.0, False)
    assert (none.tokens, none.checkpoint) == (600, True)
    frozen = budgets.budget(weight.requires_grad_(False), 1000.0, [600, 500, 400], 1e6)
    assert (frozen.tokens, frozen.store) == (1000, 0.0)


def test_what_a_token_keeps_is_measured() -> None:
    """At the least each layer's input and what its feed-forward part multiplies; weights are not counted."""
    model, scorer = shared(make("Llama"))
    kept = budgets.measure_kept(model, scorer, FORKS)
    least = 8 * SIZES["num_hidden_layers"] * (2 * SIZES["hidden_size"] + 2 * SIZES["intermediate_size"])
    assert least < kept < 10 * least
    assert budgets.measure_kept(model, scorer, FORKS * 3) == pytest.approx(kept, rel=0.1)


def test_bases_of_four_bits_are_refused_without_a_gpu(job: dict[str, Any], tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU: what is tested here is its absence")
    with pytest.raises(TrainerError, match="needs an NVIDIA GPU") as found:
        run(tmp_path / "out", **job, load_in_4bit=True, adapter={"r": 2})
    assert found.value.code == "no_gpu"


@pytest.mark.parametrize(("queries", "keys", "groups"), [(200, 200, 2), (97, 300, 1), (1, 192, 4), (250, 250, 4)])
def test_attention_by_blocks_is_torchs_own(
    queries: int, keys: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients of torch's kernel with a causal mask, whatever falls into the last block."""
    draw = torch.Generator().manual_seed(queries)
    sizes = ((4, queries), (groups, keys), (groups, keys))
    query, key, value = (
        torch.randn(1, heads, count, 8, generator=draw, dtype=torch.float64, requires_grad=True)
        for heads, count in sizes
    )
    given = torch.randn(1, 4, queries, 8, generator=draw, dtype=torch.float64)

    def found() -> list[Tensor]:
        made = blocks.attend(query, key, value, None)
        return [made, *torch.autograd.grad(made, (query, key, value), given)]

    by_block = found()
    assert "Attend" in type(blocks.attend(query, key, value, None).grad_fn).__name__
    monkeypatch.setattr(blocks, "KEYS", range(0))
    for ours, torchs in zip(by_block, found(), strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-11, atol=1e-12)


def test_an_embeddings_gradient_is_cleared_where_it_was_written() -> None:
    layer = torch.nn.Embedding(50, 4)
    for ids in ([[1, 2, 2]], [[7, 49]]):
        clear_gradients(layer.parameters(), alone=True)
        made = embed(layer, torch.tensor(ids))
        assert made is not None
        torch.autograd.backward(made.sum())
        assert layer.weight.grad is not None
        counts = torch.bincount(torch.tensor(ids[0]), minlength=50).float()
        assert torch.equal(layer.weight.grad, counts[:, None].expand(50, 4))
    clear_gradients(layer.parameters(), alone=False)
    assert layer.weight.grad is None
