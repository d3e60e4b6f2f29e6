"""Train on Together AI: DPO and the supervised stage before it, through the `together` SDK."""

from anydpo_together.provider import TogetherProvider

__all__ = ["TogetherProvider"]
