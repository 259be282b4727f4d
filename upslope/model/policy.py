"""The policy: a transformers causal language model that can say how likely it finds given tokens."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from upslope.model import attention, chat
from upslope.model.distribution import adjusted, entropy
from upslope.model.layout import Layout, lay_out
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
    def width(self) -> int:
        """Layers times hidden size: what the activations of one token are proportional to."""
        config = self.model.config
        return int(getattr(config, "num_hidden_layers", 1) * getattr(config, "hidden_size", 1))

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

    def say(self, rollouts: Sequence[Rollout], sampling: Sampling, *, hidden: bool = False) -> Said:
        """What the model says before each chosen token of the rollouts, with gradient.

        The given ids are scored, at the given temperature and with the same ban on early ends; top-k and top-p must be
        off (``scorable``). ``hidden`` asks for the last hidden states too.
        """
        layout = lay_out(rollouts, self.device, share_prompts=self.packs)
        hidden_RD = None
        if self.packs:
            out = self.model(**layout.call(), output_hidden_states=hidden)
            logits_RV = out.logits[0]
            hidden_RD = out.hidden_states[-1][0][layout.predictor_R] if hidden else None
        else:
            where = (layout.row_R, layout.column_R)
            out = self.model(**plain_call(rollouts, self.end_ids[0], self.device), output_hidden_states=hidden)
            logits_RV = before_tokens(out.logits, rollouts)[where]
            hidden_RD = before_tokens(out.hidden_states[-1], rollouts)[where] if hidden else None
        ends = torch.tensor(self.end_ids, device=self.device)
        logp_RV = adjusted(logits_RV, layout.column_R, sampling, ends).log_softmax(dim=1)
        return Said(layout, logp_RV, hidden_RD)

    def score(self, rollouts: Sequence[Rollout], sampling: Sampling, num_columns: int) -> tuple[Tensor, Tensor]:
        """(logp_NT, entropy_NT) of the rollouts' own tokens under the sampling distribution; T = ``num_columns``.

        logp carries the gradient, entropy does not; both are 0 where the mask is False.
        """
        said = self.say(rollouts, sampling)
        with torch.no_grad():
            entropy_R = entropy(said.logp_RV)
        shape = (len(rollouts), num_columns)
        return said.rectangle(said.logp_R, shape), said.rectangle(entropy_R, shape)


@dataclass(frozen=True)
class Said:
    """A model's distribution before each of R chosen tokens, and where these stand."""

    layout: Layout
    logp_RV: Tensor
    """log pi(v | state) for every token v of the vocabulary; -inf for a banned one."""
    hidden_RD: Tensor | None = None

    @property
    def logp_R(self) -> Tensor:
        """Of the token that was chosen."""
        return self.logp_RV.gather(1, self.layout.target_R[:, None])[:, 0]

    def rectangle(self, value_R: Tensor, shape: tuple[int, int]) -> Tensor:
        """Values of chosen tokens at their places in an NT rectangle of zeros."""
        return value_R.new_zeros(shape).index_put((self.layout.row_R, self.layout.column_R), value_R)


def plain_call(rollouts: Sequence[Rollout], padding: int, device: torch.device) -> dict[str, Any]:
    """Arguments for any transformers model, the ordinary way: rows padded on the right, with attention mask."""
    rows = [list(r.prompt) + list(r.response[:-1]) for r in rollouts]
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([r + [padding] * (width - len(r)) for r in rows], device=device),
        "attention_mask": torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows], device=device),
        "use_cache": False,
    }


def before_tokens(out_NSX: Tensor, rollouts: Sequence[Rollout]) -> Tensor:
    """[N, T, X] before each response token, of a plain call's outputs [N, S, X] at every position."""
    num_columns = max(len(r.response) for r in rollouts)
    first_N1 = torch.tensor([len(r.prompt) - 1 for r in rollouts], device=out_NSX.device)[:, None]
    index_NT = (first_N1 + torch.arange(num_columns, device=out_NSX.device)).clamp(max=out_NSX.shape[1] - 1)
    return torch.take_along_dim(out_NSX, index_NT[:, :, None], dim=1)
