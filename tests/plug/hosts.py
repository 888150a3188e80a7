"""Real hosts with weights large enough for every path to matter: a plugged model for each, or a skip with the reason.

Shapes: B users, N rows, D width.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from persrec import plug

ITEMS, WIDTH, LENGTH = 40, 16, 32
RULE: dict[str, Any] = {"segment": 5, "recent": 4, "tokens": 2}


class JaggedLayer(nn.Module):
    """A layer of pointwise attention whose mask multiplies and whose divisor is the number of rows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        gate, value, query, key = F.silu(self.inner(F.layer_norm(x, x.shape[-1:]))).chunk(4, dim=-1)
        attended = F.silu(query @ key.transpose(1, 2)) / x.shape[1] * attention_mask[:, 0]
        return x + self.outer(gate * F.layer_norm(attended @ value, x.shape[-1:]))


class HSTUJagged(nn.Module):
    """A model with the signature of HLLM and PerSRec: forward(x (B, N, D), attention_mask (B, 1, N, N))."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(JaggedLayer(width) for _ in range(layers))

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, attention_mask)
        return x


class Torch(nn.Module):
    """torch's own encoder, given a boolean or an additive mask."""

    def __init__(self, *, additive: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.additive = additive

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        square = mask[0, 0]
        return self.encoder(x, mask=square if self.additive else ~square), None


def loud(model: nn.Module, padding: Tensor | None = None) -> nn.Module:
    """Weights so large that a wrong bias, position or mask shows; the padding item stays zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
        if padding is not None:
            padding[0] = 0.0
    return model


def jagged() -> Any:
    host, table = loud(HSTUJagged(WIDTH, 3)), nn.Embedding(ITEMS, WIDTH, padding_idx=0)
    adapter = plug.MaskArgument(host, layers=host.layers, width=WIDTH, mask="multiply", divisor=LENGTH, embed=table)  # type: ignore[arg-type]
    return plug.attach(adapter, **RULE)


def encoder(*, additive: bool = False, tokens: int = 2, cap: int | None = None) -> Any:
    host: Any = loud(Torch(additive=additive))
    adapter = plug.MaskArgument(host, layers=host.encoder.layers, width=WIDTH, mask="add" if additive else "bool")
    return plug.attach(adapter, **RULE | {"tokens": tokens, "cap": cap})


def decoder_config(family: str, **changes: Any) -> Any:
    """A tiny configuration of a family of decoders."""
    transformers = pytest.importorskip("transformers", reason="transformers is in the hosts environment only")
    shape = {
        "vocab_size": ITEMS,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 64,
    }
    window = {"sliding_window": None} if family == "Mistral" else {}
    return getattr(transformers, f"{family}Config")(**shape | window | changes)


def decoder_model(kind: str, **changes: Any) -> Any:
    """A decoder with random weights, such as LlamaForCausalLM."""
    transformers = pytest.importorskip("transformers", reason="transformers is in the hosts environment only")
    family = kind.removesuffix("ForCausalLM").removesuffix("Model")
    return loud(getattr(transformers, kind)(decoder_config(family, **changes)))


def decoder(kind: str, **changes: Any) -> Any:
    return plug.attach(decoder_model(kind, **changes), **RULE)


def rechub_model(**changes: Any) -> Any:
    generative = pytest.importorskip(
        "torch_rechub.models.generative", reason="torch-rechub is in the hosts environment only"
    )
    shape = {"d_model": WIDTH, "n_heads": 2, "n_layers": 3, "dqk": 8, "dv": 8, "max_seq_len": LENGTH}
    host = generative.HSTUModel(ITEMS, **shape | changes)
    return loud(host, host.token_embedding.weight)


def rechub(padding: str = "left", **changes: Any) -> Any:
    from persrec.plug.rechub import RechubHSTU

    return plug.attach(RechubHSTU(rechub_model(**changes), padding=padding), **RULE)  # type: ignore[arg-type]


def rectools(kind: str, **changes: Any) -> Any:
    """A fitted model of RecTools, compressed by constructor arguments."""
    pytest.importorskip("rectools", reason="RecTools is in the hosts environment only")
    from tests.plug.rectools_log import fitted

    model = fitted(kind, compressed=RULE, **changes)
    loud(model.torch_model)
    return model


def research_hstu(*, max_length: int = LENGTH - 1, width: int = WIDTH) -> Any:
    """The research HSTU of generative-recommenders."""
    reason = "generative-recommenders is not packaged: put a checkout and fbgemm-gpu-cpu on the path"
    pytest.importorskip("fbgemm_gpu", reason=reason)
    base = "generative_recommenders.research.modeling.sequential"
    hstu = pytest.importorskip(f"{base}.hstu", reason=reason)
    embedding = pytest.importorskip(f"{base}.embedding_modules", reason=reason)
    before = pytest.importorskip(f"{base}.input_features_preprocessors", reason=reason)
    after = pytest.importorskip(f"{base}.output_postprocessors", reason=reason)
    dot = pytest.importorskip(
        "generative_recommenders.research.rails.similarities.dot_product_similarity_fn", reason=reason
    )
    host = hstu.HSTU(
        max_sequence_len=max_length,
        max_output_len=1,
        embedding_dim=width,
        num_blocks=3,
        num_heads=2,
        linear_dim=8,
        attention_dim=8,
        normalization="rel_bias",
        linear_config="uvqk",
        linear_activation="silu",
        linear_dropout_rate=0.1,
        attn_dropout_rate=0.0,
        embedding_module=embedding.LocalEmbeddingModule(ITEMS, width),
        similarity_module=dot.DotProductSimilarity(),
        input_features_preproc_module=before.LearnablePositionalEmbeddingInputFeaturesPreprocessor(
            max_length + 1, width, 0.1
        ),
        output_postproc_module=after.L2NormEmbeddingPostprocessor(width),
        verbose=False,
    )
    return loud(host, host._embedding_module._item_emb.weight)


def stu_stack(**changes: Any) -> Any:
    """A jagged stack of generative-recommenders."""
    reason = "generative-recommenders is not packaged: put a checkout and fbgemm-gpu-cpu on the path"
    pytest.importorskip("fbgemm_gpu", reason=reason)
    stu = pytest.importorskip("generative_recommenders.modules.stu", reason=reason)
    common = pytest.importorskip("generative_recommenders.common", reason=reason)
    shape = {"embedding_dim": WIDTH, "num_heads": 2, "hidden_dim": 8, "attention_dim": 8}
    stack = stu.STUStack([stu.STULayer(stu.STULayerConfig(**shape | changes)) for _ in range(3)])
    for module in stack.modules():
        module._hammer_kernel = common.HammerKernel.PYTORCH
    return loud(stack)


def jagged_stu() -> Any:
    stack = stu_stack()
    from persrec.plug.generative_recommenders import JaggedSTU

    return plug.attach(JaggedSTU(stack, length=LENGTH), **RULE)


HOSTS: dict[str, Callable[[], Any]] = {
    "mask argument, HSTUJagged": jagged,
    "mask argument, torch encoder": encoder,
    "mask argument, additive": lambda: encoder(additive=True),
    "mask argument, capped": lambda: encoder(cap=1),
    "mask argument, no tokens": lambda: encoder(tokens=0),
    "Llama with head": lambda: decoder("LlamaForCausalLM"),
    "Llama, eager": lambda: decoder("LlamaModel", attn_implementation="eager"),
    "Mistral": lambda: decoder("MistralModel"),
    "Qwen2": lambda: decoder("Qwen2Model"),
    "Qwen3 with head": lambda: decoder("Qwen3ForCausalLM"),
    "torch-rechub": rechub,
    "torch-rechub, padded on the right": lambda: rechub("right"),
    "torch-rechub, cosine, scaled": lambda: rechub(score_norm="l2", temperature=0.5, scale_input_embedding=True),
    "torch-rechub, untied": lambda: rechub(tie_embeddings=False, use_time_embedding=False),
    "RecTools HSTU": lambda: rectools("HSTUModel"),
    "RecTools HSTU, no absolute positions": lambda: rectools("HSTUModel", use_pos_emb=False),
    "RecTools HSTU, no times": lambda: rectools("HSTUModel", relative_time_attention=False),
    "RecTools SASRec": lambda: rectools("SASRecModel"),
    "RecTools SASRec, no absolute positions": lambda: rectools("SASRecModel", use_pos_emb=False),
    "research HSTU": lambda: plug.attach(research_hstu(), **RULE),
    "STUStack": jagged_stu,
}


def random_ids(users: int = 3, events: int = 20, *, items: int = ITEMS) -> Tensor:
    """Histories of different lengths, padded on the left."""
    ids = torch.from_numpy(np.random.default_rng(0).integers(1, items, (users, events)))
    return ids * (torch.arange(events) >= torch.arange(users)[:, None] * (events // users))
