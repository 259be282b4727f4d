"""A transformers body of the Llama family, as learning and decoding read it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from upslope.model.llama.weights import Dimensions, layer_of
from upslope.native.heads import Heads
from upslope.native.ops import Ops


class Body:
    """The model without its head; the parameters are its own, and what is done to them is seen."""

    def __init__(self, body: Any, ops: Ops) -> None:
        """``ops`` is what its passes are computed with, between the products."""
        config = body.config
        depth = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        scale = body.layers[0].self_attn.scaling
        heads = Heads(config.num_attention_heads, config.num_key_value_heads, depth, scale)
        self.dims = Dimensions(heads, config.rms_norm_eps)
        self.ops = ops
        self.embed = body.embed_tokens
        self.layers = [layer_of(module) for module in body.layers]
        self._norm, self._rotary = body.norm, body.rotary_emb

    @property
    def norm(self) -> Tensor:
        return self._norm.weight  # type: ignore[no-any-return]

    @property
    def embedding(self) -> Tensor:
        return self.embed.weight  # type: ignore[no-any-return]

    def angles(self, position_K: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of every position, [K, D / 2], rounded as transformers rounds them."""
        cosine, sine = self._rotary(self.embedding, position_K[None])
        half = self.dims.heads.depth // 2
        return cosine[0, :, :half].float().contiguous(), sine[0, :, :half].float().contiguous()
