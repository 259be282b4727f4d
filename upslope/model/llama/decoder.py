"""Decoding for the Llama family: a layer's weights are laid out beforehand."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import embedding

from upslope.model.llama.body import Body
from upslope.model.llama.layer import attention_half, mlp_half
from upslope.model.llama.weights import Products
from upslope.model.table_decoder import Mix, TableDecoder
from upslope.native.onednn import Product, product


class PackedLayers:
    """A body's layers for a decoder of ``num_rows`` rows."""

    def __init__(self, body: Body, num_rows: int) -> None:
        self._body = body
        self._packed = [Products.packed(layer, num_rows) for layer in body.layers]
        self._plain = [Products.of(layer) for layer in body.layers]
        self.angles = body.angles

    def through(self, id_X: Tensor, position_X: Tensor, mix: Mix) -> Tensor:
        stream_XC, delta_XC = self._run(id_X, self._packed, mix, whole=True)
        return self._body.ops.norm(stream_XC, delta_XC, self._body.norm, self._body.dims.eps)[1]

    def prefill(self, id_X: Tensor, position_X: Tensor, mix: Mix) -> None:
        self._run(id_X, self._plain, mix, whole=False)

    def _run(self, id_X: Tensor, products: list[Products], mix: Mix, *, whole: bool) -> tuple[Tensor, Tensor | None]:
        """The stream, and what is still to be added to it; not ``whole``: without what follows the last attention."""
        body = self._body
        stream_XC: Tensor = embedding(id_X, body.embedding)
        delta_XC: Tensor | None = None
        for index, (layer, own) in enumerate(zip(body.layers, products, strict=True)):

            def mixed(qkv_XX: Tensor, index: int = index) -> tuple[Tensor, None]:
                return mix(index, qkv_XX), None

            half = attention_half(stream_XC, delta_XC, body.dims, layer, own, body.ops, mixed, keep=False)
            if whole or index + 1 < len(body.layers):
                stream_XC, delta_XC, _, _ = mlp_half(half, body.dims, layer, own, body.ops, keep=False)
        return stream_XC, delta_XC


def decoder(body: Body, head: nn.Module, num_rows: int, max_tokens: int) -> TableDecoder:
    plain = type(head) is nn.Linear  # not one with an adapter around it

    def laid_out() -> tuple[PackedLayers, Product]:
        run: Product = product(head.weight, head.bias, num_rows) if plain else head  # type: ignore[arg-type]
        return PackedLayers(body, num_rows), run

    sizes = (len(body.layers), num_rows, max_tokens)
    return TableDecoder(*laid_out(), body.ops, body.dims.heads, *sizes, body.embedding, laid_out=laid_out)
