"""What to train, said once for every place: `PreferenceJob` and its parts, from Python or from TOML."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from anydpo.errors import JobInvalid, Problem
from anydpo_trainer import config as rules

if TYPE_CHECKING:
    from anydpo.data.dataset import PreferenceDataset

# Names that other tools use for ours; nearest spelling would not find them.
ELSEWHERE = {
    "num_train_epochs": "epochs",
    "n_epochs": "epochs",
    "num_epochs": "epochs",
    "model_name_or_path": "model",
    "base_model": "model",
    "base_model_id": "model",
    "ref_model_name_or_path": "ref_model",
    "per_device_train_batch_size": "micro_batch_size",
    "global_batch_size": "batch_size",
    "train_batch_size": "batch_size",
    "gradient_accumulation_steps": "batch_size",
    "training_file": "data",
    "train_file": "data",
    "dataset": "data",
    "dataset_name": "data",
    "datasets": "data",
    "validation_file": "validation",
    "eval_dataset": "validation",
    "val_size": "validation",
    "lr": "learning_rate",
    "learning_rate_multiplier": "learning_rate",
    "lr_scheduler": "lr_scheduler_type",
    "scheduler": "lr_scheduler_type",
    "warmup_steps": "warmup_ratio",
    "lr_warmup_steps_ratio": "warmup_ratio",
    "max_seq_length": "max_length",
    "max_seq_len": "max_length",
    "cutoff_len": "max_length",
    "sequence_len": "max_length",
    "max_prompt_length": "max_length",
    "gradient_clipping": "max_grad_norm",
    "random_seed": "seed",
    "suffix": "name",
    "run_name": "name",
    "metadata": "tags",
    "bf16": "dtype",
    "fp16": "dtype",
    "torch_dtype": "dtype",
    "from_checkpoint": "start_from",
    "peft_config": "adapter",
    "use_peft": "adapter",
    "dpo_beta": "method.beta",
    "pref_beta": "method.beta",
    "adam_beta": "method.beta",
    "pref_loss": "method.loss_type",
    "loss": "method.loss_type",
    "rpo_alpha": 'method.loss_type = ["sigmoid", "sft"] and loss_weights',
    "dpo_reference_free": "method.reference_free",
    "rank": "adapter.r",
    "lora_rank": "adapter.r",
    "lora_r": "adapter.r",
    "lora_target": "adapter.target_modules",
}
IN_METHOD = frozenset(field.name for field in dataclasses.fields(rules.Method))
IN_ADAPTER = frozenset(field.name for field in dataclasses.fields(rules.LoRA))


class Frozen(BaseModel):
    """A model that cannot change, refuses unknown fields, and says what is wrong as `JobInvalid`."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, defer_build=True)

    if not TYPE_CHECKING:  # checkers keep the signature that pydantic derives from the fields

        def __init__(self, **data: Any) -> None:
            try:
                super().__init__(**data)
            except ValidationError as exc:
                raise JobInvalid.of(_problems(exc, type(self))) from None

    def replace(self, **fields: Any) -> Self:
        """Return a copy with these fields changed, checked like a new one."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**{**given, **fields})


def option(name: str, default: Any, description: str = "") -> Any:
    """Return a field whose range is the trainer's own, so that schema and rules cannot differ."""
    limits = rules.RANGES.get(name)
    extra: dict[str, Any] = {}
    if limits is not None and limits.low > -math.inf:
        extra["exclusiveMinimum" if limits.open_low else "minimum"] = limits.low
    if limits is not None and limits.high < math.inf:
        extra["exclusiveMaximum" if limits.open_high else "maximum"] = limits.high
    if name in rules.CHOICES:
        extra["enum"] = list(rules.CHOICES[name])
    return Field(default=default, description=description or None, json_schema_extra=extra or None)


class DPO(Frozen):
    """The preference loss; names and meanings as in TRL. `anydpo_trainer.losses` has each formula and paper."""

    beta: float = option("beta", 0.1, "strength of the pull to the reference")
    loss_type: str | tuple[str, ...] = Field(default="sigmoid", description="one loss, or several that are summed")
    loss_weights: tuple[float, ...] | None = Field(default=None, description="one a loss; default 1 each")
    label_smoothing: float = option("label_smoothing", 0.0, "share of labels taken to be flipped")
    f_divergence_type: str = option("f_divergence_type", "reverse_kl")
    f_alpha_divergence_coef: float = option("f_alpha_divergence_coef", 0.5)
    use_weighting: bool = Field(
        default=False, description="WPO: weight pairs by how likely the policy is to write them"
    )
    ld_alpha: float | None = option("ld_alpha", None, "LD-DPO: damping of the longer answer's tail")
    discopop_tau: float = option("discopop_tau", 0.05)
    reference_free: bool = Field(default=False, description="take the reference's log-probabilities as 0")
    simpo_gamma: float = option("simpo_gamma", 0.5)
    cpo_alpha: float = option("cpo_alpha", 1.0)
    precompute_ref_log_probs: bool | None = Field(
        default=None, description="once before training; default: where it pays"
    )
    precompute_ref_batch_size: int | None = option("precompute_ref_batch_size", None)
    sync_ref_model: bool = Field(default=False, description="TR-DPO: let the reference follow the policy")
    ref_model_mixup_alpha: float = option("ref_model_mixup_alpha", 0.6)
    ref_model_sync_steps: int = option("ref_model_sync_steps", 512)

    @field_validator("loss_type", mode="after")
    @classmethod
    def _one_name_alone(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        return value[0] if isinstance(value, tuple) and len(value) == 1 else value

    @model_validator(mode="after")
    def _obey_the_rules(self) -> Self:
        if found := [Problem(*p) for p in self.method.problems()]:
            raise JobInvalid.of(found)
        return self

    @property
    def method(self) -> rules.Method:
        """The same options as the trainer holds them."""
        fields = self.model_dump()
        names = self.loss_type
        return rules.Method(**{**fields, "loss_type": (names,) if isinstance(names, str) else names})


class LoRA(Frozen):
    """A low-rank adapter; names and meanings as in peft."""

    r: int = option("r", 16)
    lora_alpha: float = option("lora_alpha", 32)
    lora_dropout: float = option("lora_dropout", 0.0)
    target_modules: str | tuple[str, ...] = "all-linear"

    @model_validator(mode="after")
    def _obey_the_rules(self) -> Self:
        if found := [Problem(*p) for p in rules.LoRA(**self.model_dump()).problems()]:
            raise JobInvalid.of(found)
        return self


class SFT(Frozen):
    """The supervised stage before DPO, on the chosen answers or on a chat file."""

    data: str = "chosen"
    epochs: int = option("epochs", 1)
    learning_rate: float | None = option("learning_rate", None, "default: the place's usual one")
    max_length: int | None = option("max_length", None)

    @model_validator(mode="after")
    def _obey_the_rules(self) -> Self:
        if found := [Problem(*p) for p in rules.Sft(**self.model_dump()).problems()]:
            raise JobInvalid.of(found)
        return self


class DataSource(Frozen):
    """One source of pairs with how to read it. `path` may be a folder or a glob."""

    path: str | tuple[str, ...]
    format: str | None = None
    mapping: str | dict[str, Any] | None = Field(default=None, description="a TOML file or a table: what columns mean")
    policy: dict[str, Any] | None = Field(default=None, description="how rankings and votes become pairs")
    split: str | None = Field(default=None, description="of a hub data set; default: train")
    on_bad: Literal["skip", "raise"] = "skip"
    weight: float = Field(default=1.0, gt=0, description="multiplies the weight of every pair")
    max_pairs: int | None = Field(default=None, ge=1, description="use the first so many")


class PreferenceJob(Frozen):
    """What to train, said once, for every place."""

    model: str | dict[str, str] = Field(description="an id, or a table place → id with `default`")
    data: Any = Field(description="a path, a list of them, a table with `path`, or a PreferenceDataset")
    validation: Any = Field(default=None, description="a share (split by prompt), a path, or a PreferenceDataset")
    ref_model: str | None = None
    method: DPO = Field(default_factory=DPO)
    epochs: int = option("epochs", 1)
    max_steps: int | None = option("max_steps", None, "decides where given, however many epochs that takes")
    learning_rate: float | Literal["auto"] = option("learning_rate", "auto", "absolute")
    lr_scheduler_type: str = option("lr_scheduler_type", "linear")
    warmup_ratio: float = option("warmup_ratio", 0.1)
    weight_decay: float = option("weight_decay", 0.0)
    max_grad_norm: float = option("max_grad_norm", 1.0, "0: no clipping")
    batch_size: int = option("batch_size", 16, "pairs per optimiser step over all devices")
    micro_batch_size: int | None = option("micro_batch_size", None, "pairs per forward pass; default: what fits")
    max_length: int | None = option("max_length", None, "tokens of a pair; longer ones are skipped and counted")
    chat_template: str = Field(default="auto", description="auto, none, or a Jinja file")
    dtype: str = option("dtype", "auto")
    load_in_4bit: bool = False
    gradient_checkpointing: bool = False
    eval_steps: int | None = option("eval_steps", None)
    save_steps: int | None = option("save_steps", None)
    early_stopping_patience: int | None = option("early_stopping_patience", None)
    adapter: LoRA | Literal["auto", "full"] = "auto"
    sft: SFT | None = None
    start_from: str | None = Field(default=None, description="RUN, RUN@step, the place's own id, or a folder")
    seed: int = option("seed", 0)
    allow_ignored: tuple[str, ...] = ()
    name: str | None = None
    tags: dict[str, str] = {}
    options: dict[str, dict[str, Any]] = {}

    @field_validator("data", mode="after")
    @classmethod
    def _known_source(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return DataSource(**value)
        if isinstance(value, (list, tuple)) and value and all(isinstance(v, (str, Mapping, DataSource)) for v in value):
            return tuple(DataSource(**v) if isinstance(v, Mapping) else v for v in value)
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, (str, DataSource)) or _is_dataset(value):
            return value
        raise ValueError(
            f"is {type(value).__name__}, expected a path, a list, a table with `path`, or a PreferenceDataset"
        )

    @field_validator("validation", mode="after")
    @classmethod
    def _known_validation(cls, value: Any) -> Any:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if 0 < value < 1:
                return float(value)
            raise ValueError(f"is {value}, expected a share between 0 and 1, or a path")
        if isinstance(value, Mapping):
            return DataSource(**value)
        if isinstance(value, Path):
            return str(value)
        if value is None or isinstance(value, (str, DataSource)) or _is_dataset(value):
            return value
        raise ValueError(f"is {type(value).__name__}, expected a share, a path, or a PreferenceDataset")

    @model_validator(mode="after")
    def _obey_the_rules(self) -> Self:
        if found := [Problem(*p) for p in self.training("cpu").problems()]:
            raise JobInvalid.of([p for p in found if not p.field.startswith(("method.", "adapter.", "sft."))] or found)
        return self

    def model_for(self, place: str) -> str | None:
        """Return the model's id at a place (`provider[/route]`), None where there is none for it.

        It is the table's own entry for the place, else what the place calls the weights of `default`, as far as the
        catalogue knows, else `default` itself; a model that is one name is its own default.
        """
        if (own := self._own_entry(place)) is not None:
            return own
        usual = self.model if isinstance(self.model, str) else self.model.get("default")
        if usual is None:
            return None
        from anydpo.catalogue import id_at

        return id_at(usual, place) or usual

    def named_for(self, place: str) -> str | None:
        """Return what the job itself says of the model at a place: its identity, whatever a catalogue may learn."""
        own = self._own_entry(place)
        return own or (self.model if isinstance(self.model, str) else self.model.get("default"))

    def _own_entry(self, place: str) -> str | None:
        if isinstance(self.model, str):
            return None
        return self.model.get(place) or self.model.get(place.partition("/")[0])

    def training(self, place: str) -> rules.Config:
        """Return the job as the trainer holds it, without paths: for checking its rules."""
        same = {f.name for f in dataclasses.fields(rules.Config)} & set(type(self).model_fields)
        values = {name: getattr(self, name) for name in same - {"model", "method", "adapter", "sft"}}
        return rules.Config(
            **{
                **values,
                "model": self.named_for(place) or "",
                "train_data": "",
                "validation_data": None if self.validation is None else "",
                "method": self.method.method,
                "adapter": rules.LoRA(**self.adapter.model_dump()) if isinstance(self.adapter, LoRA) else None,
                "sft": rules.Sft(**self.sft.model_dump()) if self.sft else None,
                "learning_rate": None if self.learning_rate == "auto" else self.learning_rate,
            }
        )

    @classmethod
    def from_toml(cls, path: str | Path, **overrides: Any) -> Self:
        """Return the job in a TOML file; its paths are relative to the file. Raises `JobInvalid`."""
        return cls(**{**read_toml(Path(path)), **overrides})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that were set, as JSON holds them; data held in memory shows its fingerprint."""
        return {name: _plain(getattr(self, name)) for name in type(self).model_fields if name in self.model_fields_set}

    def _repr_html_(self) -> str:
        import html

        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td><code>{html.escape(str(value))}</code></td></tr>"
            for name, value in self.to_dict().items()
        )
        return f"<table>{rows}</table>"


def read_toml(path: Path) -> dict[str, Any]:
    """Return the fields of a job file, with its relative paths made relative to the caller's folder."""
    import tomllib

    try:
        fields = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise JobInvalid(f"{path}: no such job file", hint="`anydpo init` writes one") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise JobInvalid(f"{path}: {exc}") from None
    return with_paths_from(path.parent, fields)


def with_paths_from(folder: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """Return job fields whose relative data paths begin at `folder`."""

    def place(value: Any) -> Any:
        if isinstance(value, str) and "://" not in value:
            return str(folder / value)
        if isinstance(value, list):
            return [place(item) for item in value]
        if isinstance(value, dict) and "path" in value:
            named = {key: place(value[key]) for key in ("path", "mapping") if isinstance(value.get(key), (str, list))}
            return {**value, **named}
        return value

    made = dict(fields)
    for name in ("data", "validation"):
        if name in made:
            made[name] = place(made[name])
    if isinstance(made.get("sft"), dict) and made["sft"].get("data", "chosen") != "chosen":
        made["sft"] = {**made["sft"], "data": place(made["sft"]["data"])}
    if made.get("chat_template", "auto") not in ("auto", "none"):
        made["chat_template"] = place(made["chat_template"])
    for name in ("model", "start_from"):  # a folder beside the job file, if there is one; else an id
        if isinstance(made.get(name), str) and (folder / made[name]).exists():
            made[name] = place(made[name])
    return made


def nearest_field(name: str) -> str | None:
    """Return what a job calls the field that another tool, or a slip, calls `name`."""
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    if name in IN_METHOD:
        return f"method.{name}"
    if name in IN_ADAPTER:
        return f"adapter.{name}"
    known = [*PreferenceJob.model_fields, *IN_METHOD]
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not found:
        return None
    return f"method.{found[0]}" if found[0] in IN_METHOD else found[0]


def _problems(exc: ValidationError, kind: type[BaseModel]) -> list[Problem]:
    found: dict[str, list[Problem]] = {}
    for error in exc.errors(include_url=False):
        top = str(error["loc"][0]) if error["loc"] else ""
        steps = [str(step) for step in error["loc"] if isinstance(step, int) or step in _field_names(kind)]
        if error["type"] == "extra_forbidden":
            steps.append(str(error["loc"][-1]))
        found.setdefault(top, []).extend(_told(error, ".".join(dict.fromkeys(steps)), kind))
    return [problem for of_one_field in found.values() for problem in _of_one_field(of_one_field)]


def _told(error: Any, path: str, kind: type[BaseModel]) -> list[Problem]:
    inner = error.get("ctx", {}).get("error")
    if isinstance(inner, JobInvalid):
        return [p._replace(field=f"{path}.{p.field}" if path else p.field) for p in inner.problems]
    if error["type"] == "extra_forbidden":
        name = str(error["loc"][-1])
        near = nearest_field(name) if kind is PreferenceJob else _nearest_of(kind, name)
        hint = f"did you mean {near}?" if near else f"known: {', '.join(kind.model_fields)}"
        return [Problem(path, "unknown_field", "no such field", hint)]
    if error["type"] == "missing":
        return [Problem(path, "missing_field", "is required")]
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if error["type"] == "value_error":
        return [Problem(path, "wrong_value", message)]
    return [Problem(path, "wrong_type", f"is {error['input']!r:.200}, expected {message}")]


def _of_one_field(problems: list[Problem]) -> list[Problem]:
    """Tell the errors of a union's branches as one: the branch that was meant, or all that would do."""
    kinds = {problem.code for problem in problems}
    if kinds == {"wrong_type"} and len(problems) > 1:
        first, *others = problems
        wanted = [problem.message.partition(", expected ")[2] for problem in others]
        return [first._replace(message=" or ".join([first.message, *wanted]))]
    return [p for p in problems if p.code != "wrong_type"] if len(kinds) > 1 else problems


def _field_names(kind: type[BaseModel]) -> set[str]:
    return {*kind.model_fields, *IN_METHOD, *IN_ADAPTER, "path", *DataSource.model_fields}


def _nearest_of(kind: type[BaseModel], name: str) -> str | None:
    found = difflib.get_close_matches(name, kind.model_fields, n=1, cutoff=0.6)
    elsewhere = ELSEWHERE.get(name, "").rpartition(".")[2]
    return elsewhere if elsewhere in kind.model_fields else found[0] if found else None


def _is_dataset(value: object) -> bool:
    return hasattr(value, "fingerprint") and hasattr(value, "skipped")


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if _is_dataset(value):
        return {"fingerprint": value.fingerprint, "pairs": len(value)}
    return value


def datasets_of(job: PreferenceJob) -> tuple[PreferenceDataset, PreferenceDataset | None]:
    """Return (train, validation) as the job describes them; raises `DataInvalid` where there is no pair."""
    from anydpo.data.resolve import resolve

    return resolve(job.data, job.validation, job.seed)
