"""The DPO program: train, evaluate, generate. Runs alone, under `torchrun`, or in a cloud container."""

__version__ = "0.1.0"
