"""Names that Mnemoscope uses of transformers, for pyright.

The package's own `__init__` imports every model for type checkers, which takes pyright some twenty seconds.
"""

from transformers.configuration_utils import PreTrainedConfig as PreTrainedConfig
from transformers.generation.configuration_utils import GenerationConfig as GenerationConfig
from transformers.generation.logits_process import LogitsProcessorList as LogitsProcessorList
from transformers.masking_utils import AttentionMaskInterface as AttentionMaskInterface
from transformers.modeling_utils import (
    AttentionInterface as AttentionInterface,
    PreTrainedModel as PreTrainedModel,
)
from transformers.models.auto.configuration_auto import (
    CONFIG_MAPPING as CONFIG_MAPPING,
    AutoConfig as AutoConfig,
)
from transformers.models.auto.modeling_auto import (
    AutoModelForCausalLM as AutoModelForCausalLM,
    AutoModelForImageTextToText as AutoModelForImageTextToText,
)
from transformers.models.auto.tokenization_auto import AutoTokenizer as AutoTokenizer
from transformers.models.gpt2.configuration_gpt2 import GPT2Config as GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel as GPT2LMHeadModel
from transformers.models.llama.configuration_llama import LlamaConfig as LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM as LlamaForCausalLM
from transformers.processing_utils import ProcessorMixin as ProcessorMixin
from transformers.tokenization_utils_base import PreTrainedTokenizerBase as PreTrainedTokenizerBase
from transformers.tokenization_utils_tokenizers import TokenizersBackend as PreTrainedTokenizerFast

__all__ = ["PreTrainedTokenizerFast"]
__version__: str
