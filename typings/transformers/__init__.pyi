# What this project uses of transformers, for pyright: through the package itself it would read all of its four hundred
# models, for a third of its time. Whoever uses another name adds it.
from typing import Any

AttentionInterface: Any
AttentionMaskInterface: Any
AutoConfig: Any
AutoModelForCausalLM: Any
AutoTokenizer: Any
BitsAndBytesConfig: Any
GgufConfig: Any
LlamaConfig: Any
LlamaForCausalLM: Any
MambaConfig: Any
MambaForCausalLM: Any
MistralConfig: Any
MistralForCausalLM: Any
PreTrainedTokenizerFast: Any
utils: Any
