"""Train on OpenAI: DPO and the supervised stage before it, through the `openai` SDK."""

from anydpo_openai.provider import OpenAIProvider

__all__ = ["OpenAIProvider"]
