"""One preference dataset, one DPO job, every cloud that runs it and your own GPU, one result."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public names and where they live; imported when first used, so that `import anydpo` costs nothing.
_WHERE = {
    "AnyDPOError": "anydpo.errors",
    "Capabilities": "anydpo.provider",
    "Comparison": "anydpo.comparison",
    "DPO": "anydpo.job",
    "Evaluation": "anydpo.result",
    "Event": "anydpo.provider",
    "EventSink": "anydpo.tracking",
    "Judge": "anydpo.judge",
    "LoRA": "anydpo.job",
    "Migration": "anydpo.migration",
    "Plan": "anydpo.provider",
    "PreferenceDataset": "anydpo.data.dataset",
    "PreferenceJob": "anydpo.job",
    "PreferencePair": "anydpo.data.pair",
    "Result": "anydpo.result",
    "Run": "anydpo.handle",
    "SFT": "anydpo.job",
    "State": "anydpo.result",
    "Sweep": "anydpo.trials",
    "check": "anydpo.plan",
    "import_run": "anydpo.importing",
    "compare": "anydpo.comparison",
    "evaluate": "anydpo.evaluation",
    "load": "anydpo.data.read",
    "migrate": "anydpo.migration",
    "Quote": "anydpo.provider",
    "Range": "anydpo.provider",
    "providers": "anydpo.catalogue",
    "quote": "anydpo.spend",
    "run": "anydpo.handle",
    "runs": "anydpo.handle",
    "sample": "anydpo.handle",
    "submit": "anydpo.handle",
    "sweep": "anydpo.sweeping",
}

__all__ = [  # noqa: RUF022 - in the order in which a user meets them
    "load",
    "PreferenceDataset",
    "PreferencePair",
    "PreferenceJob",
    "DPO",
    "LoRA",
    "SFT",
    "check",
    "quote",
    "submit",
    "run",
    "sample",
    "sweep",
    "runs",
    "import_run",
    "migrate",
    "evaluate",
    "compare",
    "providers",
    "Plan",
    "Quote",
    "Run",
    "Event",
    "State",
    "Result",
    "Sweep",
    "Range",
    "Migration",
    "EventSink",
    "Evaluation",
    "Comparison",
    "Judge",
    "Capabilities",
    "AnyDPOError",
    "__version__",
]

if TYPE_CHECKING:
    from anydpo.catalogue import providers
    from anydpo.comparison import Comparison, compare
    from anydpo.data.dataset import PreferenceDataset
    from anydpo.data.pair import PreferencePair
    from anydpo.data.read import load
    from anydpo.errors import AnyDPOError
    from anydpo.evaluation import evaluate
    from anydpo.handle import Run, run, runs, sample, submit
    from anydpo.importing import import_run
    from anydpo.job import DPO, SFT, LoRA, PreferenceJob
    from anydpo.judge import Judge
    from anydpo.migration import Migration, migrate
    from anydpo.plan import check
    from anydpo.provider import Capabilities, Event, Plan, Quote, Range
    from anydpo.result import Evaluation, Result, State
    from anydpo.spend import quote
    from anydpo.sweeping import sweep
    from anydpo.tracking import EventSink
    from anydpo.trials import Sweep


def __getattr__(name: str) -> Any:
    if name == "sandbox":
        return import_module("anydpo.sandbox")
    if name not in _WHERE:
        raise AttributeError(f"module 'anydpo' has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
