"""Train on this machine: the trainer as a process that outlives its caller."""

from anydpo_local.provider import LocalProvider

__all__ = ["LocalProvider"]
