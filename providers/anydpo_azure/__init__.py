"""Train on Azure: OpenAI's models in Azure AI Foundry, open weights by our own trainer in Azure Machine Learning."""

from anydpo_azure.provider import AzureProvider

__all__ = ["AzureProvider"]
