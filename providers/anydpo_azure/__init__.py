"""Train on Azure AI Foundry: its managed route speaks OpenAI's protocol, so this is that adapter at another address."""

from anydpo_azure.provider import AzureProvider

__all__ = ["AzureProvider"]
