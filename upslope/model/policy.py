"""The policy: a transformers causal language model that can say how likely it finds given tokens."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from upslope.model import attention, chat
from upslope.model.distribution import adjusted, entropy
from upslope.model.layout import lay_out
from upslope.types import Message, Rollout, Sampling

transformers.utils.logging.disable_progress_bar()  # bars for single shards would tear the live view apart


class Policy:
    """A model with its tokenizer. The weights here are the ones that compute; masters, if any, are the optimizer's."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval()  # no dropout: the sampler and the learner must be one distribution
        self.tokenizer = tokenizer
        self.end_ids = chat.end_ids(tokenizer, model.generation_config)
        self.packs = attention.admit(model)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    @property
    def max_positions(self) -> int:
        """The longest prompt plus response the model was made for; unbounded if it does not say."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or sys.maxsize)

    @property
    def cache_bytes(self) -> int:
        """Bytes that the keys and values of one token take, over all layers."""
        config = self.model.config
        all_heads = getattr(config, "num_attention_heads", 1)
        heads = getattr(config, "num_key_value_heads", None) or all_heads
        depth = getattr(config, "head_dim", None) or config.hidden_size // all_heads
        size = next(self.model.parameters()).element_size()
        return int(2 * config.num_hidden_layers * heads * depth * size)

    @property
    def vocabulary(self) -> int:
        return int(self.model.get_output_embeddings().weight.shape[0])

    def weights(self) -> Mapping[str, Tensor]:
        """The compute weights by name; references, not copies."""
        return dict(self.model.named_parameters())

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return chat.prompt_ids(self.tokenizer, messages)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a response without its special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def save(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """An ordinary Hugging Face directory; ``weights`` by parameter name stand in for the compute ones."""
        compute = {name: parameter.data for name, parameter in self.model.named_parameters()}
        try:
            for name, parameter in self.model.named_parameters():
                parameter.data = (weights or {}).get(name, parameter.data)
            self.model.save_pretrained(folder)
        finally:
            for name, parameter in self.model.named_parameters():
                parameter.data = compute[name]
        self.tokenizer.save_pretrained(folder)

    def score(self, rollouts: Sequence[Rollout], sampling: Sampling, num_columns: int) -> tuple[Tensor, Tensor]:
        """(logp_NT, entropy_NT) of the rollouts' own tokens under the sampling distribution; T = ``num_columns``.

        logp carries the gradient, entropy does not; both are 0 where the mask is False. The given ids are scored,
        at the given temperature and with the same ban on early ends; top-k and top-p must be off (``scorable``).
        """
        layout = lay_out(rollouts, self.device, share_prompts=self.packs)
        if self.packs:
            logits_RV = self.model(**layout.call()).logits[0]
        else:
            logits_RV = self._plain_logits(rollouts)[layout.row_R, layout.column_R]
        ends = torch.tensor(self.end_ids, device=self.device)
        logp_RV = adjusted(logits_RV, layout.column_R, sampling, ends).log_softmax(dim=1)
        logp_R = logp_RV.gather(1, layout.target_R[:, None])[:, 0]
        with torch.no_grad():
            entropy_R = entropy(logp_RV)
        zero_NT = logp_R.new_zeros(len(rollouts), num_columns)
        where = (layout.row_R, layout.column_R)
        return zero_NT.index_put(where, logp_R), zero_NT.index_put(where, entropy_R)

    def _plain_logits(self, rollouts: Sequence[Rollout]) -> Tensor:
        """[N, T, V] before each response token, the ordinary way: rows padded on the right, with attention mask."""
        rows = [list(r.prompt) + list(r.response[:-1]) for r in rollouts]
        width = max(map(len, rows))
        ids = torch.tensor([r + [self.end_ids[0]] * (width - len(r)) for r in rows], device=self.device)
        seen = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows], device=self.device)
        logits = self.model(input_ids=ids, attention_mask=seen, use_cache=False).logits
        num_columns = max(len(r.response) for r in rollouts)
        first_N1 = torch.tensor([len(r.prompt) - 1 for r in rollouts], device=self.device)[:, None]
        index_NT = (first_N1 + torch.arange(num_columns, device=self.device)).clamp(max=width - 1)
        return torch.take_along_dim(logits, index_NT[:, :, None], dim=1)
