"""Tiny text models of random weights with a tokenizer, saved as real ones are, and items tables of texts."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ["red", "green", "blue", "small", "large", "lamp", "chair", "table", "cup", "spoon", "ü", "чай", ".", ","]
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
KINDS = {
    "llama": (transformers.LlamaConfig, {"num_key_value_heads": 2}),
    "qwen2": (transformers.Qwen2Config, {"num_key_value_heads": 1}),
    "mistral": (transformers.MistralConfig, {"num_key_value_heads": 1, "sliding_window": None}),
    "bert": (transformers.BertConfig, {}),
}


def saved_model(folder: Path, kind: str = "bert", *, positions: int = 64, seed: int = 0) -> Path:
    """A model folder as `save_pretrained` leaves it."""
    config_of, more = KINDS[kind]
    config: Any = config_of(
        vocab_size=len(WORDS) + 2,
        max_position_embeddings=positions,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        **SIZES,
        **more,
    )
    torch.manual_seed(seed)
    model = transformers.AutoModel.from_config(config)
    model.save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=positions
    ).save_pretrained(folder)
    return folder
