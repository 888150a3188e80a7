"""Tiny text models of random weights with a tokenizer, saved as real ones are."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ["red", "green", "blue", "small", "large", "lamp", "chair", "table", "cup", "spoon", "ü", "чай", ".", ","]
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (transformers.LlamaConfig, {"num_key_value_heads": 2}),
    "qwen2": (transformers.Qwen2Config, {"num_key_value_heads": 1}),
    "mistral": (transformers.MistralConfig, {"num_key_value_heads": 1, "sliding_window": None}),
    "bert": (transformers.BertConfig, {}),
}


def saved_model(folder: Path, kind: str = "bert", *, positions: int = 64, seed: int = 0, **sizes: Any) -> Path:
    """A model folder as `save_pretrained` leaves it."""
    tokenizer = by_bytes() if kind == "qwen2" else by_words()
    config_of, more = KINDS[kind]
    config = config_of(
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=positions,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        **{**SIZES, **more, **sizes},
    )
    torch.manual_seed(seed)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=positions
    ).save_pretrained(folder)
    return folder


CONFIGURATION = """
from transformers import PretrainedConfig

class BagConfig(PretrainedConfig):
    model_type = "bag"

    def __init__(self, vocab_size=16, hidden_size=8, **kwargs):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        super().__init__(**kwargs)
"""
MODELING = """
import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .configuration_bag import BagConfig

class BagModel(PreTrainedModel):
    config_class = BagConfig

    def __init__(self, config):
        super().__init__(config)
        self.words = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.post_init()

    def get_input_embeddings(self):
        return self.words

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        return BaseModelOutput(last_hidden_state=2 * self.words(input_ids))
"""


def saved_with_code(folder: Path) -> Path:
    """A model folder with code of its own, as models of a kind that transformers does not know have: twice a table."""
    saved_model(folder)
    (folder / "configuration_bag.py").write_text(CONFIGURATION)
    (folder / "modeling_bag.py").write_text(MODELING)
    classes = {"AutoConfig": "configuration_bag.BagConfig", "AutoModel": "modeling_bag.BagModel"}
    config = {"model_type": "bag", "architectures": ["BagModel"], "auto_map": classes}
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 16, "hidden_size": 8}))
    table = torch.arange(16 * 8.0).reshape(16, 8)
    save_file({"words.weight": table}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def by_words() -> Any:
    """A tokenizer that knows a few words."""
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def by_bytes() -> Any:
    """A tokenizer whose tokens are bytes, as the Qwen family's begin with."""
    signs = ["[PAD]", "[UNK]", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({sign: number for number, sign in enumerate(signs)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer
