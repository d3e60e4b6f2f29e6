"""A provider package to begin with: `write_provider` copies it under another name."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from anydpo.errors import Invalid

WHERE = {
    "pyproject.toml.txt": "pyproject.toml",
    "README.md.txt": "README.md",
    "init.py.txt": "anydpo_acme/__init__.py",
    "provider.py.txt": "anydpo_acme/provider.py",
    "client.py.txt": "anydpo_acme/client.py",
    "test_conformance.py.txt": "tests/test_conformance.py",
}


def write_provider(name: str, folder: Path) -> list[Path]:
    """Write the package of a provider called `name` into a new folder and return its files. Raises `Invalid`."""
    if not re.fullmatch(r"[a-z][a-z0-9]{1,30}", name):
        raise Invalid(f"{name!r} cannot name a provider", hint="2 to 31 small letters and digits, a letter first")
    if folder.exists() and any(folder.iterdir()):
        raise Invalid(f"{folder} is not empty", hint="-o DIR names another folder")
    written = []
    for source, target in WHERE.items():
        text = (files(__name__) / source).read_text("utf-8")
        path = folder / target.replace("acme", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("acme", name).replace("Acme", name.capitalize()), "utf-8")
        written.append(path)
    (folder / f"anydpo_{name}" / "py.typed").touch()
    return written
