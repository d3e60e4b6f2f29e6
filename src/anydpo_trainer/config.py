"""Every option of the trainer, its range, and the combinations that make no sense. Standard library only.

This is the one place where the rules stand. The SDK imports this module, and no other of the trainer, to say
before anything is sent what the trainer would refuse; the trainer itself reads its job through `Config.parse`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Union

TINY = "tiny"
SMOLLM2 = "smollm2-135m"
PLAIN_LENGTH = 4096  # tokens of a pair, where neither the job nor the model's context says less


class Problem(NamedTuple):
    """One thing that has to change before the job can run."""

    field: str
    code: str
    message: str
    hint: str | None = None


class ConfigError(ValueError):
    """The configuration was refused before anything was loaded."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(f"{p.field}: {p.message}" for p in problems))
        self.problems = problems


class Range(NamedTuple):
    """Where a number may lie; an open end excludes its limit."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        low = f"{'above' if self.open_low else 'at least'} {self.low:g}" if self.low > -math.inf else ""
        high = f"{'below' if self.open_high else 'at most'} {self.high:g}" if self.high < math.inf else ""
        return " and ".join(part for part in (low, high) if part) or "finite"


POSITIVE = Range(0, open_low=True)
COUNT = Range(1)
SHARE = Range(0, 1)

RANGES: dict[str, Range] = {
    # the method
    "beta": POSITIVE,
    "label_smoothing": Range(0, 0.5, open_high=True),
    "f_alpha_divergence_coef": Range(),
    "ld_alpha": SHARE,
    "discopop_tau": POSITIVE,
    "simpo_gamma": Range(0),
    "cpo_alpha": Range(0),
    "precompute_ref_batch_size": COUNT,
    "ref_model_mixup_alpha": SHARE,
    "ref_model_sync_steps": COUNT,
    # the adapter
    "r": COUNT,
    "lora_alpha": POSITIVE,
    "lora_dropout": Range(0, 1, open_high=True),
    # the run
    "epochs": COUNT,
    "max_steps": COUNT,
    "learning_rate": POSITIVE,
    "warmup_ratio": SHARE,
    "weight_decay": Range(0),
    "max_grad_norm": Range(0),
    "batch_size": COUNT,
    "micro_batch_size": COUNT,
    "processes": COUNT,
    "max_length": Range(2),
    "eval_steps": COUNT,
    "save_steps": COUNT,
    "save_total_limit": COUNT,
    "early_stopping_patience": COUNT,
    "seed": Range(0, 2**31 - 1),
    "adam_beta1": Range(0, 1, open_high=True),
    "adam_beta2": Range(0, 1, open_high=True),
    "adam_epsilon": POSITIVE,
    # a measurement
    "kl_prompts": Range(0),
    "kl_tokens": COUNT,
}

CHOICES: dict[str, tuple[str, ...]] = {
    "f_divergence_type": ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"),
    "lr_scheduler_type": ("linear", "cosine", "constant"),
    "dtype": ("auto", "float32", "bfloat16", "float64"),
    "optim": ("adamw", "sgd"),
    "truncation": ("skip", "keep_start"),
    "device": ("auto", "cpu", "cuda"),
    "sharding": ("auto", "none", "full"),
}


@dataclass(frozen=True)
class LossRules:
    """What one loss needs and what may be combined with it. `anydpo_trainer.losses` holds the formulas."""

    about: str
    paper: str
    reference: bool = True  # needs the reference model's log-probabilities
    smoothing: bool = False  # has a term for flipped labels
    divergence: bool = False  # is a function of the f-DPO score difference
    reference_free: bool = False  # still means something when the reference terms are 0
    weighting: bool = True  # WPO weights may multiply it
    start: float | None = None  # value where policy = reference at beta 0.1, for warnings


LOSSES: dict[str, LossRules] = {
    "sigmoid": LossRules("DPO; with label_smoothing cDPO", "2305.18290", True, True, True, True, start=math.log(2)),
    "sigmoid_norm": LossRules(
        "length-normalised DPO; beta 5 to 10", "2411.15124", True, True, True, True, start=math.log(2)
    ),
    "hinge": LossRules("SLiC / RSO hinge", "2305.10425", True, False, True, True, start=1.0),
    "ipo": LossRules("IPO, token-averaged; beta is tau", "2310.12036", True, False, True, True),
    "exo_pair": LossRules("EXO; needs label_smoothing > 0", "2402.00856", True, True, True, True),
    "nca_pair": LossRules("noise contrastive alignment", "2402.05369", start=2 * math.log(2)),
    "robust": LossRules("unbiased DPO under flipped labels", "2403.00409", True, True, True, True, start=math.log(2)),
    "bco_pair": LossRules("binary classifier optimisation", "2404.04656", start=2 * math.log(2)),
    "sppo_hard": LossRules("self-play preference optimisation", "2405.00675"),
    "aot": LossRules("alignment by optimal transport, paired", "2406.05882", True, True, False, True, False),
    "aot_unpaired": LossRules("the same, unpaired", "2406.05882", True, True, False, True, False),
    "apo_zero": LossRules("anchored: chosen up, rejected down", "2408.06266", start=1.0),
    "apo_down": LossRules("anchored: both down, rejected more", "2408.06266", start=1.0),
    "discopop": LossRules("DiscoPOP, log-ratio modulated", "2406.08414", True, False, True, True),
    "sft": LossRules("likelihood of the chosen answer (RPO term)", "2404.19733", False, weighting=False),
    "simpo": LossRules("SimPO, average log-probability with a margin", "2405.14734", False, True),
    "orpo": LossRules("ORPO, odds ratio and likelihood", "2403.07691", False, weighting=False),
    "cpo": LossRules("CPO, DPO without reference plus likelihood", "2401.08417", False, True),
}

COUPLED = frozenset({"aot", "aot_unpaired"})  # sort over the batch: one pair's loss depends on the others
REFERENCE_FREE_KIND = frozenset({"simpo", "orpo", "cpo"})


@dataclass(frozen=True)
class Method:
    """The preference loss; names as in TRL."""

    beta: float = 0.1
    loss_type: tuple[str, ...] = ("sigmoid",)
    loss_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    f_divergence_type: str = "reverse_kl"
    f_alpha_divergence_coef: float = 0.5
    use_weighting: bool = False
    ld_alpha: float | None = None
    discopop_tau: float = 0.05
    reference_free: bool = False
    simpo_gamma: float = 0.5
    cpo_alpha: float = 1.0
    precompute_ref_log_probs: bool | None = None
    precompute_ref_batch_size: int | None = None
    sync_ref_model: bool = False
    ref_model_mixup_alpha: float = 0.6
    ref_model_sync_steps: int = 512

    @property
    def weights(self) -> tuple[float, ...]:
        """One weight a loss; 1 where none is given."""
        return self.loss_weights or (1.0,) * len(self.loss_type)

    @property
    def needs_reference(self) -> bool:
        """Whether a reference model has any part in the loss."""
        return not self.reference_free and any(LOSSES[name].reference for name in self.loss_type)

    @property
    def coupled(self) -> bool:
        """Whether the loss of a pair depends on the rest of its batch."""
        return any(name in COUPLED for name in self.loss_type)

    def problems(self) -> list[Problem]:
        """Return every rule of the method that this breaks."""
        found = _out_of_range(self)
        unknown = [name for name in self.loss_type if name not in LOSSES]
        for name in unknown:
            near = difflib.get_close_matches(name, LOSSES, n=1, cutoff=0.5)
            found.append(
                Problem(
                    "loss_type",
                    "unknown_loss",
                    f"no loss {name!r}",
                    f"did you mean {near[0]!r}?" if near else f"one of {', '.join(LOSSES)}",
                )
            )
        if not unknown:
            found += list(self._sum_problems())
            found += list(self._modifier_problems())
            found += list(self._reference_problems())
        return found

    def _sum_problems(self) -> typing.Iterator[Problem]:
        names, weights = self.loss_type, self.loss_weights
        if not names:
            yield Problem("loss_type", "no_loss", "is empty", 'the usual one is "sigmoid"')
        if len(set(names)) < len(names):
            yield Problem("loss_type", "repeated_loss", "names one loss twice", "give it a weight instead")
        if weights is not None and len(weights) != len(names):
            yield Problem("loss_weights", "weights_count", f"{len(weights)} weights for {len(names)} losses")
        if weights is not None and (not all(math.isfinite(w) and w >= 0 for w in weights) or not any(weights)):
            yield Problem("loss_weights", "weights_value", "must be 0 or more, and not all 0")
        free = [name for name in names if name in REFERENCE_FREE_KIND]
        if free and set(names) - {"sft"} - set(free[:1]):
            yield Problem(
                "loss_type",
                "mixed_kinds",
                f"{free[0]} is summed with another preference loss, whose beta means something else",
                f'{free[0]} goes alone or with "sft"',
            )

    def _modifier_problems(self) -> typing.Iterator[Problem]:
        names = self.loss_type
        for name in names:
            rules = LOSSES[name]
            if name == "exo_pair" and self.label_smoothing == 0:
                yield Problem(
                    "label_smoothing", "needs_smoothing", "exo_pair takes its logarithm, so 0 is infinite", "try 1e-3"
                )
            if self.label_smoothing > 0 and not rules.smoothing and name != "sft":
                yield Problem(
                    "label_smoothing",
                    "unused_smoothing",
                    f"{name} has no term for flipped labels",
                    f"use it with {_having('smoothing')}",
                )
            if self.f_divergence_type != "reverse_kl" and not rules.divergence and name != "sft":
                yield Problem(
                    "f_divergence_type",
                    "unused_divergence",
                    f"{name} is not a function of the score difference that f-DPO changes",
                    f"use it with {_having('divergence')}",
                )
            if self.use_weighting and not rules.weighting and name != "sft":
                yield Problem(
                    "use_weighting", "unused_weighting", f"WPO weights one pair, {name} is no loss of one pair"
                )
        if self.use_weighting and set(names) == {"sft"}:
            yield Problem("use_weighting", "unused_weighting", "WPO weights a preference loss, and sft alone is none")
        if self.ld_alpha is not None and {"simpo", "orpo"} & set(names):
            yield Problem("ld_alpha", "length_twice", "these losses average over length already")
        for option, used in self._owned().items():
            if not used and getattr(self, option) != getattr(type(self), option):
                yield Problem(option, "unused_option", f"has no part in {' + '.join(names)} as configured")

    def _owned(self) -> dict[str, bool]:
        """Options that belong to one loss or modifier, and whether that is in use."""
        return {
            "simpo_gamma": "simpo" in self.loss_type,
            "cpo_alpha": "cpo" in self.loss_type,
            "discopop_tau": "discopop" in self.loss_type,
            "f_alpha_divergence_coef": self.f_divergence_type == "alpha_divergence",
            "ref_model_mixup_alpha": self.sync_ref_model,
            "ref_model_sync_steps": self.sync_ref_model,
        }

    def _reference_problems(self) -> typing.Iterator[Problem]:
        names = [name for name in self.loss_type if name != "sft"]
        if self.reference_free:
            for name in names:
                if LOSSES[name].reference and not LOSSES[name].reference_free:
                    yield Problem(
                        "reference_free",
                        "needs_reference",
                        f"{name} anchors each answer to the reference, and 0 is no anchor",
                        f"without a reference use {_having('reference_free')}, simpo, orpo or cpo",
                    )
            if self.f_divergence_type != "reverse_kl":
                yield Problem("reference_free", "needs_reference", "a divergence from no reference is undefined")
        if not self.needs_reference:
            for option in ("sync_ref_model", "precompute_ref_log_probs"):
                if getattr(self, option):
                    yield Problem(option, "no_reference", "this loss has no reference model", f"leave {option} out")
        if self.sync_ref_model and self.precompute_ref_log_probs:
            yield Problem(
                "precompute_ref_log_probs",
                "moving_reference",
                "a reference that follows the policy has no fixed values",
            )

    def advice(self) -> list[str]:
        """Return what is allowed but unusual."""
        said = []
        if "sigmoid_norm" in self.loss_type and self.beta < 1:
            said.append(f"sigmoid_norm averages over tokens: beta {self.beta:g} is very weak, 5 to 10 is usual")
        if "simpo" in self.loss_type and self.beta < 1:
            said.append(f"simpo averages over tokens: beta {self.beta:g} is very weak, 2 to 10 is usual")
        if "discopop" in self.loss_type and self.f_divergence_type == "forward_kl":
            said.append("discopop with forward_kl grows as exp(exp(x)): expect overflow")
        return said


@dataclass(frozen=True)
class LoRA:
    """A low-rank adapter; names and meanings as in peft. Paper: 2106.09685."""

    r: int = 16
    lora_alpha: float = 32
    lora_dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"

    def problems(self) -> list[Problem]:
        """Return every field out of its range."""
        return _out_of_range(self)


@dataclass(frozen=True)
class Sft:
    """The supervised stage before DPO: on the chosen answers, or on a chat file."""

    data: str = "chosen"
    epochs: int = 1
    learning_rate: float | None = None
    max_length: int | None = None

    def problems(self) -> list[Problem]:
        """Return every field out of its range."""
        return _out_of_range(self)


@dataclass(frozen=True)
class Config:
    """One training run. Paths are files of canonical pairs; lengths are tokens; sizes are pairs."""

    model: str
    train_data: str
    validation_data: str | None = None
    ref_model: str | None = None
    start_from: str | None = None
    method: Method = field(default_factory=Method)
    adapter: LoRA | None = None  # None: every weight is trained
    sft: Sft | None = None
    epochs: int = 1
    max_steps: int | None = None
    learning_rate: float | None = None
    lr_scheduler_type: str = "linear"
    warmup_ratio: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0  # 0: no clipping
    batch_size: int = 16  # a step, over all devices
    micro_batch_size: int | None = None  # a forward pass, on one device
    max_length: int | None = None
    truncation: str = "skip"
    chat_template: str = "auto"
    dtype: str = "auto"
    load_in_4bit: bool = False  # the frozen base in 4 bits under an adapter (QLoRA, 2305.14314); needs a GPU
    gradient_checkpointing: bool = False  # where activations would not fit it is switched on in any case
    prefix_sharing: bool = True  # each prompt computed once for its two answers, where the model allows it
    processes: int | None = None  # on this machine, for who starts the trainer; None: one for each GPU
    sharding: str = "auto"  # of the weights over processes; auto: where they do not fit one device
    eval_steps: int | None = None
    save_steps: int | None = None
    save_total_limit: int = 2
    early_stopping_patience: int | None = None
    seed: int = 0
    shuffle: bool = True
    optim: str = "adamw"
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    device: str = "auto"
    cache_dir: str | None = None

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Config:
        """Return the configuration, or raise `ConfigError` naming every field that is wrong."""
        problems: list[Problem] = []
        made = _parse(cls, given, "", problems)
        if not problems:
            problems += made.problems()
            if made.load_in_4bit and made.adapter is None:  # a job may leave its adapter to the place
                said = "weights of 4 bits cannot be trained themselves"
                problems.append(Problem("load_in_4bit", "needs_adapter", said, "train a LoRA adapter"))
        if problems:
            raise ConfigError(problems)
        return typing.cast("Config", made)

    def problems(self) -> list[Problem]:
        """Return every rule this breaks, the method's and the adapter's included."""
        found = _out_of_range(self)
        parts = (("method", self.method), ("adapter", self.adapter), ("sft", self.sft))
        for name, part in parts:
            found += [p._replace(field=f"{name}.{p.field}") for p in part.problems()] if part else []
        return found + list(self._combined())

    def _combined(self) -> typing.Iterator[Problem]:
        if self.method.sync_ref_model and self.adapter is not None:
            yield Problem(
                "method.sync_ref_model",
                "no_separate_reference",
                "with LoRA the reference is the model without the adapter, which cannot follow the policy",
                'adapter = "full"',
            )
        if self.load_in_4bit and self.device == "cpu":
            yield Problem("load_in_4bit", "needs_gpu", "4-bit weights need an NVIDIA GPU, and device is cpu")
        if self.load_in_4bit and self.sharding == "full":
            yield Problem("load_in_4bit", "not_sharded", "4-bit weights are not sharded", 'sharding = "none"')
        if self.ref_model is not None and not self.method.needs_reference:
            yield Problem("ref_model", "no_reference", "this loss has no reference model", "leave ref_model out")
        if self.ref_model is not None and self.sft is not None:
            yield Problem("ref_model", "two_references", "after an SFT stage its result is the reference")
        if self.method.coupled and self.batch_size < 2:
            yield Problem("batch_size", "batch_of_one", "this loss sorts within a batch and needs at least 2 pairs")
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            yield Problem(
                "micro_batch_size", "above_batch", f"{self.micro_batch_size} is above batch_size {self.batch_size}"
            )
        if self.early_stopping_patience is not None and self.validation_data is None:
            yield Problem(
                "early_stopping_patience", "no_validation", "stopping early needs held-out pairs", "set validation"
            )
        if self.early_stopping_patience is not None and self.eval_steps is None:
            yield Problem("early_stopping_patience", "no_eval_steps", "stopping early needs eval_steps")
        if self.eval_steps is not None and self.validation_data is None:
            yield Problem("eval_steps", "no_validation", "there are no held-out pairs to evaluate", "set validation")

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON holds it."""
        return typing.cast("dict[str, Any]", json.loads(json.dumps(dataclasses.asdict(self))))

    def stage_learning_rate(self, stage: str) -> float:
        """Return the absolute learning rate of `sft` or `dpo`, the usual one where none is set."""
        given = self.sft.learning_rate if stage == "sft" and self.sft else self.learning_rate
        if given is not None:
            return given
        if self.model == TINY:
            return 3e-3 if stage == "sft" else 5e-4
        full, adapter = (2e-5, 2e-4) if stage == "sft" else (1e-6, 1e-5)
        return full if self.adapter is None else adapter


@dataclass(frozen=True)
class Evaluation:
    """One measurement of a model on held-out pairs."""

    model: str
    data: str
    ref_model: str | None = None
    method: Method = field(default_factory=Method)
    micro_batch_size: int | None = None
    max_length: int | None = None
    truncation: str = "skip"
    chat_template: str = "auto"
    dtype: str = "auto"
    prefix_sharing: bool = True
    kl_prompts: int = 0  # prompts to which the model writes answers, over which its divergence is measured
    kl_tokens: int = 64  # tokens of such an answer at most
    device: str = "auto"
    seed: int = 0
    cache_dir: str | None = None

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Evaluation:
        """Return the configuration, or raise `ConfigError` naming every field that is wrong."""
        problems: list[Problem] = []
        made = _parse(cls, given, "", problems)
        problems += [] if problems else _out_of_range(made) + made.method.problems()
        if problems:
            raise ConfigError(problems)
        return typing.cast("Evaluation", made)


@dataclass(frozen=True)
class Generation:
    """Completions of some prompts by one or more models."""

    models: tuple[str, ...]
    prompts: str  # a file of JSON lines, each {"prompt": messages}
    max_new_tokens: int = 256
    temperature: float = 1.0  # 0: the likeliest token
    batch_size: int = 32
    chat_template: str = "auto"
    dtype: str = "auto"
    device: str = "auto"
    seed: int = 0
    cache_dir: str | None = None

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Generation:
        """Return the configuration, or raise `ConfigError` naming every field that is wrong."""
        problems: list[Problem] = []
        made = _parse(cls, given, "", problems)
        problems += [] if problems else _out_of_range(made)
        if problems:
            raise ConfigError(problems)
        return typing.cast("Generation", made)


@dataclass(frozen=True)
class Merge:
    """An adapter to be put into its base model's weights."""

    adapter: str
    base: str | None = None  # default: what the adapter names
    seed: int = 0
    cache_dir: str | None = None

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Merge:
        """Return the configuration, or raise `ConfigError` naming every field that is wrong."""
        problems: list[Problem] = []
        made = _parse(cls, given, "", problems)
        if problems:
            raise ConfigError(problems)
        return typing.cast("Merge", made)


def nearest(name: str, known: typing.Iterable[str]) -> str | None:
    """Return the known name most like this one."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def _having(rule: str) -> str:
    return ", ".join(name for name, rules in LOSSES.items() if getattr(rules, rule))


def _out_of_range(made: Any) -> list[Problem]:
    found = []
    for part in dataclasses.fields(made):
        value = getattr(made, part.name)
        limits, choices = RANGES.get(part.name), CHOICES.get(part.name)
        if limits is not None and value is not None and not limits.holds(value):
            found.append(Problem(part.name, "out_of_range", f"is {value:g}, expected {limits}"))
        if choices is not None and value not in choices:
            near = nearest(str(value), choices)
            found.append(
                Problem(
                    part.name,
                    "not_a_choice",
                    f"is {value!r}, expected one of {', '.join(choices)}",
                    f"did you mean {near!r}?" if near else None,
                )
            )
    return found


def _parse(kind: Any, given: Mapping[str, Any], path: str, problems: list[Problem]) -> Any:
    """Build a dataclass from JSON, collecting a problem per unknown, missing or mistyped field."""
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind)}
    values = {}
    for name, value in given.items():
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean {near!r}?" if near else f"known: {', '.join(known)}"
            problems.append(Problem(path + name, "unknown_field", "no such option", hint))
            continue
        try:
            values[name] = _convert(value, hints[name], path + name, problems)
        except (TypeError, ValueError) as exc:
            problems.append(Problem(path + name, "wrong_type", str(exc)))
    for name, part in known.items():
        required = part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING
        if required and name not in given:
            problems.append(Problem(path + name, "missing_field", "is required"))
    return None if problems else kind(**values)


def _convert(value: Any, kind: Any, path: str, problems: list[Problem]) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        options = [option for option in arguments if option is not type(None)]
        if len(options) == 2 and isinstance(value, str):  # text or a list of texts
            return value
        return _convert(value, options[-1], path, problems)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            value = [value]
        return tuple(_convert(item, arguments[0], path, problems) for item in value)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise TypeError(f"is {value!r}, expected a table of options")
        return _parse(kind, value, f"{path}.", problems)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise TypeError(f"is {value!r}, expected {kind.__name__}")


def read_json(path: Path) -> Mapping[str, Any]:
    """Read a configuration file; raises `ConfigError` where it is not a JSON object."""
    try:
        given = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise ConfigError([Problem(str(path), "unreadable", str(exc))]) from exc
    if not isinstance(given, dict):
        raise ConfigError([Problem(str(path), "unreadable", "is not a JSON object")])
    return given
