"""Models whose weights lie in shards on several learners (torch's FSDP2), called in the same ways as whole ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from upslope.model.hf import marked_layers
from upslope.model.trunk import trunk_of
from upslope.model.value import ValueModel


class ShardedRoot:
    """A module that was sharded, with all that is in it."""

    def __init__(self, module: FSDPModule) -> None:
        self.module = module
        self.used = False
        """Since it was last at rest."""
        self.module.register_forward_pre_hook(self.note)  # type: ignore[attr-defined]

    def note(self, *_: Any) -> None:
        """It is used."""
        self.used = True

    def rest(self) -> None:
        """Drop whatever of it is gathered."""
        if self.used:
            self.module.reset_iter_state()
        self.used = False


def shard_language_model(model: Any, mesh: DeviceMesh, dtype: torch.dtype) -> list[ShardedRoot]:
    """Shard a causal language model that computes in ``dtype`` from now on; returns its root.

    Every layer is gathered when it is computed, and dropped afterwards; what is outside of layers (embedding, last
    norm, head) from the trunk's pass until its backward pass. The model, its trunk and its head can each be called by
    itself, the head as often as wanted: gradients of the head's calls add up here, and are summed over the learners
    with the trunk's own. A trunk's pass with gradient must have its backward pass before the next one.
    """
    trunk, head = trunk_of(model), model.get_output_embeddings()
    root = _sharded(model, mesh, dtype)
    if isinstance(head, nn.Module) and trunk is not model:
        _Doors(root, trunk, head)
    return [root]


def shard_value_model(value: ValueModel, mesh: DeviceMesh, dtype: torch.dtype) -> list[ShardedRoot]:
    """Shard a critic, whose head computes in what it is kept in; returns its roots."""
    trunks = [] if value.trunk is None else [_sharded(value.trunk, mesh, dtype)]
    return [*trunks, _sharded(value.head, mesh, value.head.weight.dtype)]


def _sharded(model: nn.Module, mesh: DeviceMesh, dtype: torch.dtype) -> ShardedRoot:
    """Gradients are reduced in at least float32, and summed: every denominator is of the whole batch already."""
    kept = next(model.parameters()).dtype
    how = MixedPrecisionPolicy(
        param_dtype=None if dtype == kept else dtype, reduce_dtype=kept, cast_forward_inputs=False
    )
    for module in reversed(_units(model)):
        fully_shard(module, mesh=mesh, mp_policy=how)
    fully_shard(model, mesh=mesh, mp_policy=how, reshard_after_forward=False)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    assert isinstance(model, FSDPModule)
    return ShardedRoot(model)


def _units(model: nn.Module) -> list[nn.Module]:
    """What is gathered and reduced by itself, outer modules first: every layer, and outside of layers every module with
    parameters of its own, but for the head's. Those stay with the root: they alone have gradients that were added up
    over calls, in another precision than the gradients of one pass."""
    layers = marked_layers(model)
    within = {id(module) for layer in layers for module in layer.modules()}
    find_head: Any = getattr(model, "get_output_embeddings", lambda: None)
    head = find_head()
    of_head = {id(parameter) for parameter in head.parameters()} if isinstance(head, nn.Module) else set()

    def is_unit(module: nn.Module) -> bool:
        if module is model or id(module) in within:
            return any(module is layer for layer in layers)
        own = {id(parameter) for parameter in module.parameters(recurse=False)}
        return bool(own) and not own & of_head

    return [module for module in model.modules() if is_unit(module)]


class _Doors:
    """The three ways into a sharded language model. FSDP works in the hooks of the root's pass; here the trunk's pass
    and the head's are made passes of the root as well, where they do not come from within one."""

    def __init__(self, root: ShardedRoot, trunk: nn.Module, head: nn.Module) -> None:
        self._note, self._root = root.note, root.module
        self._inside = False
        self._wrap(root.module, self._whole)  # type: ignore[arg-type]
        self._wrap(trunk, self._trunk, "pass_of_trunk")
        self._wrap(head, self._head, "pass_of_head")

    def _wrap(self, part: nn.Module, way: Callable[..., Any], name: str = "") -> None:
        plain = part.forward

        def within(*args: Any, **more: Any) -> Any:
            with self._entered():
                return way(plain, *args, **more)

        if name:
            setattr(self._root, name, within)
            register_fsdp_forward_method(self._root, name)  # type: ignore[arg-type]
        through_root = getattr(self._root, name) if name else within
        part.forward = lambda *args, **more: (plain if self._inside else through_root)(*args, **more)

    @contextmanager
    def _entered(self) -> Iterator[None]:
        self._note()
        self._inside = True
        try:
            yield
        finally:
            self._inside = False

    def _whole(self, plain: Callable[..., Any], *args: Any, **more: Any) -> Any:
        self._sum(True)
        return plain(*args, **more)

    def _trunk(self, plain: Callable[..., Any], *args: Any, **more: Any) -> Any:
        self._sum(True)
        out = plain(*args, **more)
        if out.last_hidden_state.requires_grad:
            out.last_hidden_state.register_hook(lambda _: self._sum(True))
        return out

    def _head(self, plain: Callable[..., Any], source: Tensor) -> Any:
        if torch.is_grad_enabled():
            self._sum(False)
        return plain(source)

    def _sum(self, now: bool) -> None:
        """Whether backward passes end by summing the root's gradients over the learners, and dropping its weights;
        those of the head's calls alone do not, and leave gradients in at least float32."""
        self._root.set_requires_gradient_sync(now, recurse=False)
        self._root.set_reshard_after_backward(now, recurse=False)
        self._root.set_is_last_backward(now)
