"""A small Llama over item embeddings for benchmarks/plug.py: training, tuning, the ten best items, timing.

Shapes: Q queries, B users of a batch, T columns, D width, V items.
"""

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.plug_hosts import Acts, Asked, Ints, Log, Settings
from persrec import plug


class Llama:
    """A small Llama over item embeddings, trained on the next item by a softmax over shared negatives."""

    TEMPERATURE, NEGATIVES = 0.07, 512

    def __init__(self, log: Log, settings: Settings) -> None:
        self.log, self.settings = log, settings
        self.items = int(log.items.max())
        self._optimizers = WeakKeyDictionary[torch.nn.Module, torch.optim.Optimizer]()

    def start(self, history: str, seed: int) -> Any:
        """A model that is not trained yet: the decoder itself, or one with a compressor."""
        from transformers import LlamaConfig, LlamaModel

        torch.manual_seed(seed)
        width = self.settings.width
        host = LlamaModel(
            LlamaConfig(
                vocab_size=self.items + 1,
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=4 * self.settings.length,
                pad_token_id=0,
            )
        )
        return host if history == "full" else plug.attach(host, **self.settings.rule(history))

    def attached(self, model: Any, seed: int) -> Any:
        """The full model with a compressor."""
        torch.manual_seed(seed)
        return plug.attach(model, **self.settings.rule("tuned"))

    def module(self, model: Any) -> torch.nn.Module:
        """What holds the weights."""
        return model

    @torch.no_grad()
    def best(self, model: Any, asked: Asked) -> Ints:
        """(Q, 10) items by rank."""
        model.eval()
        table = F.normalize(_host(model).embed_tokens.weight, dim=1)
        found = []
        for queries in np.array_split(np.arange(len(asked.user)), -(-len(asked.user) // 256)):
            ids = self._windows(asked.user[queries], asked.end[queries])
            scores = self._last(model, ids) @ table.T
            scores[:, 0] = -torch.inf
            for row, query in enumerate(queries.tolist() if not self.log.seen else []):
                known = self.log.stretch(int(asked.user[query]), 0, int(asked.end[query]))
                scores[row, self.log.items[known]] = -torch.inf
            found.append(scores.topk(10).indices)
        return torch.cat(found).numpy()

    def timed(self, model: Any) -> Acts:
        """Forward pass, and with scores over all items, from whole histories or from memories, of the first users."""
        model.eval()
        count = min(self.settings.timed_users, len(self.log.user))
        ids = self._windows(self.log.user[:count], self.log.end[:count])
        table = F.normalize(_host(model).embed_tokens.weight.detach(), dim=1)
        acts: Acts = {
            "forward_seconds": lambda: self._last(model, ids),
            "recommend_seconds": lambda: (self._last(model, ids) @ table.T).topk(10),
        }
        if isinstance(model, plug.Compressed):
            with torch.no_grad():
                memory = plug.compress(model, ids)
            recent = plug.since(memory, ids)
            acts["forward_seconds_from_memory"] = lambda: plug.read(model, memory, *recent)
            acts["recommend_seconds_from_memory"] = lambda: (
                plug.read(model, memory, *plug.since(memory, ids)) @ table.T
            ).topk(10)
        return acts

    def epoch(self, model: Any) -> None:
        """One pass over the last windows of all users."""
        model.train()
        optimizer = self._optimizers.setdefault(
            model, torch.optim.AdamW(model.parameters(), lr=self.settings.learning_rate)
        )
        users = np.flatnonzero(self.log.train_end >= 2)[torch.randperm(int((self.log.train_end >= 2).sum())).numpy()]
        for chosen in np.array_split(users, -(-len(users) // self.settings.batch)):
            ids = self._windows(chosen, self.log.train_end[chosen], length=self.settings.length + 1)
            targets = ids[:, 1:]
            hidden = self._hidden(model, ids[:, :-1] * (targets > 0))
            loss = self._loss(hidden[targets > 0], targets[targets > 0], _host(model).embed_tokens.weight)
            if isinstance(model, plug.Compressed):
                loss = loss + model.token_loss()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def _loss(self, hidden: Tensor, targets: Tensor, table: Tensor) -> Tensor:
        """Softmax over the target and negatives that all rows share."""
        negatives = torch.randint(1, self.items + 1, (self.NEGATIVES,))
        query = F.normalize(hidden, dim=1)
        right = (query * F.normalize(table[targets], dim=1)).sum(dim=1, keepdim=True)
        wrong = query @ F.normalize(table[negatives], dim=1).T
        wrong = wrong.masked_fill(targets[:, None] == negatives[None], -torch.inf)
        scores = torch.cat([right, wrong], dim=1) / self.TEMPERATURE
        return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.int64))

    def _hidden(self, model: Any, ids: Tensor) -> Tensor:
        """(B, T, D) of windows that are padded on the right."""
        if isinstance(model, plug.Compressed):
            return model(ids)
        return model(input_ids=ids, attention_mask=(ids > 0).long(), use_cache=False).last_hidden_state

    def _last(self, model: Any, ids: Tensor) -> Tensor:
        """(B, D) at the last events."""
        hidden = self._hidden(model, ids)
        return F.normalize(hidden[torch.arange(len(ids)), (ids > 0).sum(dim=1) - 1], dim=1)

    def _windows(self, users: Ints, ends: Ints, length: int | None = None) -> Tensor:
        """The last events before the ends, (B, T), padded on the right."""
        length = length or self.settings.length
        ids = torch.zeros(len(users), min(length, int(ends.max())), dtype=torch.int64)
        for row, (user, end) in enumerate(zip(users.tolist(), ends.tolist(), strict=True)):
            own = self.log.items[self.log.stretch(user, max(0, end - length), end)]
            ids[row, : len(own)] = torch.from_numpy(own.astype(np.int64))
        return ids


def _host(model: Any) -> Any:
    return model.host if isinstance(model, plug.Compressed) else model
