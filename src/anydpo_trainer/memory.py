"""How much memory a run needs at least, and how much there is. Standard library only."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GB = 1e9
MALLOPT = {"trim_threshold": -1, "top_pad": -2, "mmap_threshold": -3, "mmap_max": -4}  # the numbers of <malloc.h>


def least_bytes(weights: int, trained: int, *, reference: bool = False, weight_bytes: float = 4) -> dict[str, float]:
    """Return what cannot be avoided, by part: weights, gradients, AdamW's two moments, a separate reference.

    `weights` and `trained` count parameters; activations come on top.
    """
    parts = {
        "weights": float(weights * weight_bytes),
        "gradients": 4.0 * trained,
        "optimiser": 8.0 * trained,
        "reference": float(weights * weight_bytes) if reference else 0.0,
    }
    return {name: size for name, size in parts.items() if size}


def shortage(needed: dict[str, float], available: float, where: str) -> str | None:
    """Return a sentence with the numbers if `needed` cannot fit, None if it can."""
    total = sum(needed.values())
    if total <= available:
        return None
    parts = ", ".join(f"{name} {size / GB:.1f}" for name, size in needed.items())
    return f"needs at least {total / GB:.1f} GB ({parts}), and {available / GB:.1f} GB {where} are free"


def available_ram() -> float | None:
    """Return the bytes of memory that a new process can have, None where the system does not say."""
    found = [_meminfo(), _cgroup()]
    known = [value for value in found if value is not None]
    if known:
        return min(known)
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return None


@contextmanager
def importing() -> Iterator[None]:
    """Import large packages without the garbage collector, which would look through what stays anyway.

    torch and transformers take a third less time so; what was made is left out of later collections too.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def keep_freed() -> bool:
    """Let this process reuse memory that it frees instead of giving it back; returns whether the C library can.

    Every step frees and asks for the same large blocks, and pages fresh from the system cost more than a
    product of the same size. GNU's C library only.
    """
    return tune_malloc(mmap_max=0, trim_threshold=2**31 - 1, top_pad=64 << 20)


def tune_malloc(**parameters: int) -> bool:
    """Set parameters of mallopt(3) by their names in small letters; returns whether the C library has them."""
    try:
        tune = ctypes.CDLL(None).mallopt
        return all(tune(MALLOPT[name], value) == 1 for name, value in parameters.items())
    except (AttributeError, OSError, TypeError):
        return False


def count_parameters(folder: Path) -> int | None:
    """Return how many weights the safetensors files of a model folder hold, from their headers alone."""
    total = 0
    for path in folder.glob("*.safetensors"):
        try:
            with path.open("rb") as file:
                (size,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(min(size, 1 << 27)))
        except (OSError, ValueError, struct.error):
            return None
        for name, entry in header.items():
            if name != "__metadata__":
                count = 1
                for length in entry["shape"]:
                    count *= length
                total += count
    return total or None


def _meminfo() -> float | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return float(found[0]) * 1024 if found else None


def _cgroup() -> float | None:
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text().strip()
    except OSError:
        return None
    return None if limit == "max" else max(0.0, float(limit) - float(used))
