"""Imported once by the fork server."""

import peft  # noqa: F401
import torch
import transformers
from transformers import LlamaForCausalLM  # noqa: F401

torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()
