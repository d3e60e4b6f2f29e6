"""Our trainer beside TRL's on the same pairs and weights: `python benchmarks/trainer.py --case long-32k [--json]`.

Both take their optimiser steps in turn in one process: TRL 1.16's DPOTrainer at its best settings on a processor
(float32, no gradient checkpointing, fused AdamW, reference precomputed), ours as it trains. Peak memory is that of
processes of their own, four pairs a step. Before each step the C library is set as in such a process: ours keeps
freed memory for itself, TRL has the library's defaults at the most that they adapt to. The roofline is the time that
the unique tokens' floating-point operations take at the median rate of matrix products of the model's own shapes,
measured in the same rounds.

Needs TRL: pip install --constraint constraints.txt trl==1.16.0 datasets accelerate
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import itertools
import json
import logging
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the trainer does: threads that wait do not spin
os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1", TOKENIZERS_PARALLELISM="false")
HH = Path(os.environ.get("ANYDPO_SHARED", "../shared")) / "data" / "hh-rlhf" / "harmless-base-train.jsonl.gz"
RATE, BETA = 1e-5, 0.1
MEMORY_PAIRS, MEMORY_STEPS = 4, 2


@dataclass(frozen=True)
class Case:
    """A model and the lengths of its pairs; `pairs` is how many make a step."""

    vocabulary: int
    prompt: int
    completion: tuple[int, int]
    pairs: int
    hidden: int = 512
    layers: int = 8
    wide: int = 1408
    heads: int = 8
    key_heads: int = 4


CASES = {
    "long-32k": Case(32000, 384, (64, 128), 2),
    "long-128k": Case(128000, 384, (64, 128), 2),
    "short-32k": Case(32000, 64, (64, 64), 4),
    "smollm2": Case(49152, 0, (0, 0), 4, hidden=576, layers=30, wide=1536, heads=9, key_heads=3),
}
Step = Callable[[Sequence[int]], float]
MALLOC = {
    "ours": {"mmap_max": 0, "trim_threshold": 2**31 - 1, "top_pad": 64 << 20},
    "trl": {"mmap_max": 65536, "mmap_threshold": 32 << 20, "trim_threshold": 64 << 20, "top_pad": 128 << 10},
}


def build(name: str, count: int) -> tuple[Any, list[Any]]:
    """Return a case's model in training and `count` of its pairs, the same every time."""
    import torch

    from anydpo_trainer.batch import Encoded

    if name == "smollm2":
        return _smollm2(count)
    from transformers import LlamaConfig, LlamaForCausalLM

    case = CASES[name]
    torch.manual_seed(0)
    made: Any = LlamaForCausalLM
    model = made(
        LlamaConfig(
            vocab_size=case.vocabulary,
            hidden_size=case.hidden,
            intermediate_size=case.wide,
            num_hidden_layers=case.layers,
            num_attention_heads=case.heads,
            num_key_value_heads=case.key_heads,
            max_position_embeddings=1024,
            tie_word_embeddings=False,
            use_cache=False,
        )
    )
    draw = random.Random(0)

    def ids(low: int, high: int) -> array[int]:
        return array("i", [draw.randrange(case.vocabulary) for _ in range(draw.randint(low, high))])

    return model, [
        Encoded(ids(case.prompt, case.prompt), ids(*case.completion), ids(*case.completion)) for _ in range(count)
    ]


def _smollm2(count: int) -> tuple[Any, list[Any]]:
    import gzip

    import torch

    from anydpo_trainer import model as models
    from anydpo_trainer.config import SMOLLM2, LoRA
    from anydpo_trainer.tokenise import Encoder

    folder = models.folder_of(SMOLLM2, Path(tempfile.gettempdir()) / "anydpo-benchmark")
    torch.manual_seed(0)
    model = models.add_adapter(models.load_model(folder, torch.float32, torch.device("cpu")), LoRA())
    encoder = Encoder(models.load_tokenizer(folder), "auto", 512)
    with gzip.open(HH, "rt", encoding="utf-8") as file:
        rows = [row for line in file if (row := _hh(json.loads(line))) is not None]
    rows = random.Random(0).sample(rows, 3 * count)
    return model, list(encoder.pairs(rows))[:count]


def _hh(row: dict[str, str]) -> dict[str, Any] | None:
    """Return a pair of Anthropic's dialogues as canonical messages, None where only the prompts differ."""
    same = itertools.takewhile(lambda two: two[0] == two[1], zip(row["chosen"], row["rejected"], strict=False))
    start = "".join(letter for letter, _ in same).rfind("\n\nAssistant:")
    parts = row["chosen"][:start].split("\n\n")
    turns = [part for part in parts if part.startswith(("Human:", "Assistant:"))]
    if start < 0 or not turns or not turns[-1].startswith("Human:"):
        return None
    roles = {"Human": "user", "Assistant": "assistant"}
    prompt = [{"role": roles[t.split(":", 1)[0]], "content": t.split(":", 1)[1].strip()} for t in turns]
    answers = {key: row[key][start + len("\n\nAssistant:") :].strip() for key in ("chosen", "rejected")}
    if not all(answers.values()) or "\n\nHuman:" in "".join(answers.values()):
        return None
    return {"prompt": prompt, **{k: [{"role": "assistant", "content": text}] for k, text in answers.items()}}


def ours(model: Any, pairs: list[Any], size: int, out: Path) -> tuple[Step, Any]:
    """Return a step of our trainer's own loop, reference precomputed, and what chose its forward passes."""
    import torch

    from anydpo_trainer import model as models
    from anydpo_trainer.checkpoint import Checkpoints
    from anydpo_trainer.config import Config, LoRA, Method
    from anydpo_trainer.dpo import DpoStage, first_epoch
    from anydpo_trainer.engine import Engine
    from anydpo_trainer.fast.choose import choose
    from anydpo_trainer.loop import Loop, Trainee
    from anydpo_trainer.metrics_file import MetricsFile
    from anydpo_trainer.reference import compute_table, from_table
    from anydpo_trainer.shard import World

    adapter = LoRA() if hasattr(model, "peft_config") else None
    config = Config(
        model="benchmark",
        train_data="",
        method=Method(beta=BETA),
        adapter=adapter,
        batch_size=size,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        warmup_ratio=0.0,
        shuffle=False,
    )
    engine = Engine(torch.device("cpu"), torch.float32, World())
    passes = choose(model, pairs, engine)
    weights = models.make_trainable(model, adapter=adapter is not None)
    fixed = models.Reference(model, None if adapter else model)
    table = compute_table(fixed, pairs, config.method, engine, out, first_epoch(pairs, config, engine, None))
    stage = DpoStage(model, pairs, config, engine, from_table(table, engine))
    loop = Loop(stage, Trainee(model, None, weights, Checkpoints(out, 1, ""), MetricsFile(out / "m")), config, engine)
    model.train()
    return lambda indices: float(loop._step(indices, 0)["train/loss"]), passes


def trl(model: Any, pairs: list[Any], size: int, out: Path) -> Step:
    """Return a step of TRL's trainer: its loss, backward pass, clipping and its optimiser."""
    import torch

    from anydpo_trainer import tiny

    # Requirements of this benchmark alone: type checkers need not have them
    datasets: Any = importlib.import_module("datasets")
    library: Any = importlib.import_module("trl")
    datasets.disable_progress_bars()
    trainer_class: Any = library.DPOTrainer

    class Tokenised(trainer_class):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    names = (("prompt_ids", "prompt"), ("chosen_ids", "chosen"), ("rejected_ids", "rejected"))
    rows = datasets.Dataset.from_list([{key: list(getattr(pair, name)) for key, name in names} for pair in pairs])
    arguments = library.DPOConfig(
        output_dir=str(out),
        beta=BETA,
        bf16=False,
        gradient_checkpointing=False,
        optim="adamw_torch_fused",
        learning_rate=RATE,
        lr_scheduler_type="constant",
        precompute_ref_log_probs=True,
        precompute_ref_batch_size=size,
        per_device_train_batch_size=size,
        max_length=None,
        use_cpu=True,
        report_to=[],
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    trainer: Any = Tokenised(model=model, args=arguments, train_dataset=rows, processing_class=tiny.make_tokenizer())
    loader = trainer.get_train_dataloader()  # computes the reference
    trainer.create_optimizer()
    model.train()
    prepared: Any = loader.dataset

    def step(indices: Sequence[int]) -> float:
        batch = trainer._prepare_inputs(trainer.data_collator([prepared[i] for i in indices]))
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


@dataclass
class Roofline:
    """Matrix products of a step at their own shapes, and how often each is made; attention is counted apart."""

    products: dict[tuple[int, int, int], float]
    attention: float  # floating-point operations

    def seconds(self) -> tuple[float, float, float]:
        """Measure every shape once; return a whole step's seconds and processor seconds so, and its operations."""
        import torch

        operations = total = processor = 0.0
        for (m, k, n), times in self.products.items():
            left, right, made = torch.rand(m, k), torch.rand(k, n), torch.empty(m, n)
            torch.mm(left, right, out=made)
            began, worked = time.perf_counter(), time.process_time()
            torch.mm(left, right, out=made)
            total += times * (time.perf_counter() - began)
            processor += times * (time.process_time() - worked)
            operations += times * 2 * m * k * n
        whole = 1 + self.attention / operations
        return total * whole, processor * whole, operations + self.attention


def roofline(case: Case, pairs: Sequence[Any], *, frozen: bool) -> Roofline:
    """Return the products that the unique tokens of these pairs need, none for prompts in the last layer but keys."""
    from anydpo_trainer.fast.layout import lay_out

    layout = lay_out([pair.fork for pair in pairs])
    tokens, read = layout.input_ids.shape[1], len(layout.read)
    size = case.hidden // case.heads
    keys, hidden, wide, vocabulary = case.key_heads * size, case.hidden, case.wide, case.vocabulary
    products: dict[tuple[int, int, int], float] = {}

    def linear(rows: int, into: int, out: int, times: float, *, trained: bool) -> None:
        shapes = [(rows, into, out), (rows, out, into)] + [(out, rows, into)] * trained
        for shape in shapes:
            products[shape] = products.get(shape, 0) + times

    for rows, layers in ((tokens, case.layers - 1), (read, 1)):
        for into, out, times in ((hidden, hidden, 2), (hidden, wide, 2), (wide, hidden, 1)):
            linear(rows, into, out, times * layers, trained=not frozen)
    linear(tokens, hidden, keys, 2 * case.layers, trained=not frozen)
    linear(read, hidden, vocabulary, 1, trained=not frozen)
    seen = 0.0
    for part in layout.segments:
        seen += part.trunk**2 / 2 + sum(length * (part.trunk + length / 2) for length in part.branches)
    return Roofline(products, 12 * hidden * case.layers * seen)


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Take `rounds` counted steps of both in turn, after one that is not counted."""
    import torch

    from anydpo_trainer import memory

    case = CASES[name]
    model, pairs = build(name, case.pairs * (rounds + 1))
    with tempfile.TemporaryDirectory() as folder:
        their_step = trl(copy.deepcopy(model), pairs, case.pairs, Path(folder) / "trl")
        our_step, passes = ours(model, pairs, case.pairs, Path(folder) / "ours")
        raw = []
        for at in range(rounds + 1):
            indices = range(at * case.pairs, (at + 1) * case.pairs)
            row: dict[str, Any] = {}
            order = (("trl", their_step), ("ours", our_step))
            for key, step in order if at % 2 else order[::-1]:
                memory.tune_malloc(**MALLOC[key])
                wall, processor = time.perf_counter(), time.process_time()
                loss = step(indices)
                row[key] = {"s": time.perf_counter() - wall, "cpu_s": time.process_time() - processor, "loss": loss}
            best = roofline(case, [pairs[i] for i in indices], frozen=name == "smollm2")
            row["roofline_s"], row["roofline_cpu_s"], row["operations"] = best.seconds()
            row["tokens"] = sum(
                2 * len(pairs[i].prompt) + len(pairs[i].chosen) + len(pairs[i].rejected) for i in indices
            )
            raw.append(row)
            print(json.dumps(row), file=sys.stderr)
    counted = raw[1:]
    medians = {key: statistics.median(row[key]["s"] for row in counted) for key in ("trl", "ours")}
    tokens = statistics.median(row["tokens"] for row in counted)
    return {
        "ratio": statistics.median(row["trl"]["s"] / row["ours"]["s"] for row in counted),
        "ratio_cpu_time": statistics.median(row["trl"]["cpu_s"] / row["ours"]["cpu_s"] for row in counted),
        "roofline_share": statistics.median(row["roofline_s"] for row in counted) / medians["ours"],
        "roofline_share_cpu_time": statistics.median(row["roofline_cpu_s"] / row["ours"]["cpu_s"] for row in counted),
        "losses_agree": all(abs(row["trl"]["loss"] - row["ours"]["loss"]) < 1e-4 for row in raw),
        "largest_loss_difference": max(abs(row["trl"]["loss"] - row["ours"]["loss"]) for row in raw),
        "seconds_per_step": medians,
        "pairs_per_second": {key: case.pairs / value for key, value in medians.items()},
        "tokens_per_second": {key: tokens / value for key, value in medians.items()},
        "pairs_per_step": case.pairs,
        "passes": vars(passes),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rounds": raw,
    }


def peak(name: str, whose: str) -> float:
    """Take a few steps of one of them in this process and return the most memory it ever had, in bytes."""
    model, pairs = build(name, MEMORY_PAIRS * MEMORY_STEPS)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        step = trl(model, pairs, MEMORY_PAIRS, out) if whose == "trl" else ours(model, pairs, MEMORY_PAIRS, out)[0]
        for at in range(MEMORY_STEPS):
            step(range(at * MEMORY_PAIRS, (at + 1) * MEMORY_PAIRS))
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the process that started this one had
        return 1024.0 * int(status.read_text().split("VmHWM:")[1].split()[0])
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def peaks(name: str) -> dict[str, float]:
    """Return the peak resident bytes of a process of each, four pairs a step."""
    found = {}
    for whose in ("trl", "ours"):
        command = [sys.executable, __file__, "--case", name, "--peak-of", whose]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        found[whose] = float(done.stdout.split()[-1])
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' own talk off standard output."""
    from transformers.utils import logging as transformers_log

    silence: Any = transformers_log
    silence.set_verbosity_error()
    silence.disable_progress_bar()
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield


def main() -> None:
    """Measure one case and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="long-32k")
    parser.add_argument("--rounds", type=int, default=5, help="counted; one more comes first")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peak-of", choices=("trl", "ours"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak_of:
        with quiet():
            found_peak = peak(given.case, given.peak_of)
        print(found_peak)
        return
    with quiet():
        found = measure(given.case, given.rounds)
        memory = peaks(given.case)
    made = {"schema": 1, "case": given.case, "peak_memory_ratio": memory["ours"] / memory["trl"], "peak_bytes": memory}
    made |= found
    if given.json:
        print(json.dumps(made))
        return
    for key in ("case", "ratio", "ratio_cpu_time", "peak_memory_ratio", "roofline_share", "losses_agree"):
        print(f"{key:<20}{made[key] if isinstance(made[key], (str, bool)) else round(made[key], 3)}")
    for key in ("seconds_per_step", "pairs_per_second", "tokens_per_second", "peak_bytes"):
        print(f"{key:<20}" + "  ".join(f"{whose} {value:.4g}" for whose, value in made[key].items()))


if __name__ == "__main__":
    main()
