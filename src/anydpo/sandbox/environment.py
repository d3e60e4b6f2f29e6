"""The environment of a command that may reach the sandbox and nothing else."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Mapping

# Whatever looks like a credential is unset, of providers that have no emulator too
SECRET = re.compile(
    r"(_|^)(API_?KEY|ACCESS_KEY(_ID)?|KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?|CONNECTION_STRING)(_FILE|_URI)?$",
    re.IGNORECASE,
)
CLOUDS = ("AWS_", "AZURE_", "ARM_", "GOOGLE_", "GCP_", "HF_TOKEN", "WANDB_")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY")
LOOPBACK = "127.0.0.1,localhost,::1"


def base_environment() -> dict[str, str]:
    """Return the variables that keep libraries offline and quiet, whoever the provider is."""
    return {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "WANDB_MODE": "offline",
        "DO_NOT_TRACK": "1",
        "NO_PROXY": LOOPBACK,
        "no_proxy": LOOPBACK,
    }


class DeadProxy:
    """A loopback port that is taken and never answers: what is sent to it is refused."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.bind(("127.0.0.1", 0))  # bound and never listening: connections are refused at once

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()


def command_environment(sandbox: Mapping[str, str], clears: Iterable[str], proxy: str) -> dict[str, str]:
    """Return this process's environment without credentials and proxies, with the sandbox's variables."""
    starts = (*CLOUDS, *clears)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(starts) and not SECRET.search(name) and name.upper() not in PROXIES
    }
    proxies = {name: proxy for upper in PROXIES for name in (upper, upper.lower())}
    return {**kept, **proxies, **sandbox}
