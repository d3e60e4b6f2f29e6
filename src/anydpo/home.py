"""Where this package keeps its files: `ANYDPO_HOME`, else the platform's folder for user data."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Return the folder of journal, caches and local runs; it is made when something is first kept there."""
    if given := os.environ.get("ANYDPO_HOME"):
        return Path(given).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_data_dir("anydpo", appauthor=False))
