"""The Llama family's trunk: the products of torch, and between them an ``Ops``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from upslope.model.layout import Layout
from upslope.model.llama.body import Body
from upslope.model.llama.decoder import decoder
from upslope.model.llama.gradient import LastNorm, LayerPass
from upslope.model.llama.layer import Plan
from upslope.model.table_decoder import TableDecoder


class Trunk(Body):
    """The family's ``FastTrunk``."""

    def states(self, layout: Layout, *, checkpointing: bool = False) -> Tensor:
        """The hidden states before each scored token, after the last norm, with gradient: [R, C]."""
        plan = Plan(*self.angles(layout.position_K), layout.spans, checkpointing, torch.is_grad_enabled())
        stream = self.embed(layout.id_K)  # the module: a padding token gets no gradient there
        delta = torch.zeros_like(stream)
        for layer in self.layers:
            stream, delta = LayerPass.apply(stream, delta, self.dims, self.ops, plan, *layer)  # type: ignore[no-untyped-call]
        rows_RC = (stream + delta).index_select(0, layout.predictor_R)
        return LastNorm.apply(rows_RC, self.norm, self.dims.eps, self.ops)  # type: ignore[no-any-return, no-untyped-call]

    def decoder(self, head: nn.Module, num_rows: int, max_tokens: int) -> TableDecoder:
        return decoder(self, head, num_rows, max_tokens)
