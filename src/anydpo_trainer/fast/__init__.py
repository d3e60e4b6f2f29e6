"""The fast path: each prompt once, no padding, and log-probabilities without logits of a whole batch.

`anydpo_trainer.logprobs` has the plain path, which this one must equal; `fit` says which models can take it.
"""
