"""The ten lines per host of persrec/plug/README.md, run as they stand."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.plug.hosts import ITEMS, HSTUJagged, decoder_model, random_ids, research_hstu, stu_stack

TEXT = (Path(__file__).parents[2] / "persrec" / "plug" / "README.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^## (.*?)\n.*?^```python\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL))


def given(title: str, folder: Path) -> dict[str, Any]:
    """What the sentence above a block says is there."""
    torch.manual_seed(0)
    ids = random_ids(3, 150)
    times = (torch.arange(150) * 3_600_000 + 3_600_000).expand(3, -1)
    names: dict[str, Any] = {"ids": ids, "times": times, "next_times": times + 3_600_000}
    if title == "A model that is given its mask":
        names |= {"host": HSTUJagged(16, 2), "table": nn.Embedding(ITEMS, 16)}
    if title == "Llama, Mistral, Qwen":
        decoder_model("LlamaForCausalLM", max_position_embeddings=256).save_pretrained(folder)
        names |= {"folder": folder}
    if title.startswith("RecTools"):
        names |= rectools()
    if title == "generative-recommenders, research HSTU":
        names |= {"host": research_hstu(max_length=200)}
    if title == "generative-recommenders, STUStack":
        names |= {"stack": stu_stack(), "vectors": torch.randn(3, 150, 16), "valid": ids > 0}
    return names


def rectools() -> dict[str, Any]:
    pytest.importorskip("rectools", reason="RecTools is in the hosts environment only")
    from rectools.dataset import Dataset

    from tests.plug.rectools_log import context, fitted, log

    frame = log(longest=120)
    return {
        "dataset": Dataset.construct(frame),
        "context": context(frame),
        "users": frame["user_id"].unique(),
        "fitted": fitted("HSTUModel", session_max_len=200),
    }


def test_every_host_has_its_lines() -> None:
    assert len(BLOCKS) == 7
    assert all(len(block.strip().splitlines()) <= 11 for block in BLOCKS.values())


@pytest.mark.parametrize("title", BLOCKS)
def test_the_lines_run(title: str, tmp_path: Path) -> None:
    if "torch_rechub" in BLOCKS[title]:
        pytest.importorskip("torch_rechub", reason="torch-rechub is in the hosts environment only")
    names = given(title, tmp_path)
    with warnings.catch_warnings():
        if title.startswith("RecTools"):
            warnings.simplefilter("ignore")  # Lightning's advice on workers and loggers
        exec(compile(BLOCKS[title], f"persrec/plug/README.md, {title}", "exec"), names)
    if "same" in names:
        assert names["best"]["item_id"].tolist() == names["same"]["item_id"].tolist()
    if "query" in names:
        assert names["query"].shape == (3, 16)
    if "scores" in names:
        assert names["scores"].shape[0] == 3
