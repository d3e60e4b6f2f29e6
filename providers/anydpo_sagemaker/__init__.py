"""Train on Amazon SageMaker: its serverless DPO for listed models, or our own trainer in a training job."""

from anydpo_sagemaker.provider import SageMakerProvider

__all__ = ["SageMakerProvider"]
