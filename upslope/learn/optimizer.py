"""An optimizer's step over master weights of at least float32, whatever the model computes in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from upslope.errors import NonFinite, UserError
from upslope.learn.ranks import Ranks
from upslope.learn.rules import owner_of, rules_of
from upslope.learn.settings import LearnSettings
from upslope.model.precision import widen_norms


def schedule(update: int, num_updates: int, settings: LearnSettings) -> float:
    """The learning rate's factor at an update (0 is the first): linear warm-up, then the chosen decay towards zero.

    ``wsd`` (warm-up, stable, decay: arXiv 2404.06395, section 4) stays at 1 until the last ``decay_share`` of all
    updates and then falls linearly (arXiv 2405.18392).

    >>> [schedule(u, 8, LearnSettings(warmup=4, decay="linear")) for u in (0, 3, 4, 6)]
    [0.25, 1.0, 1.0, 0.5]
    >>> [schedule(u, 10, LearnSettings(warmup=2, decay="wsd", decay_share=0.4)) for u in (0, 2, 6, 8, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.25]
    """
    if update < settings.warmup:
        return (update + 1) / settings.warmup
    since = settings.warmup
    if settings.decay == "wsd":
        since = max(since, num_updates - round(settings.decay_share * num_updates))
    share = min(max(update - since, 0) / max(num_updates - since, 1), 1.0)
    factors: dict[str, Callable[[float], float]] = {
        "constant": lambda _: 1.0,
        "linear": lambda x: 1 - x,
        "wsd": lambda x: 1 - x,
        "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
    }
    return factors[settings.decay](share)


def flat(pieces: Sequence[Tensor | None], masters: Sequence[Tensor]) -> Tensor:
    """One vector of a piece for every master (gradients, say), in their order; None counts as zeros."""
    filled = [torch.zeros_like(m) if p is None else p for m, p in zip(masters, pieces, strict=True)]
    return torch.cat([p.detach().flatten() for p in filled])


def kept_apart(device: torch.device, settings: LearnSettings) -> torch.device | None:
    """Where the masters of weights on that device are, if not there."""
    return torch.device("cpu") if settings.offload and device.type != "cpu" else None


class Optimizer(Protocol):
    """Masters and moments of some parameters, and how they take a step. ``LocalOptimizer`` is the one for a single
    process."""

    settings: LearnSettings
    dtype: torch.dtype
    """What the model computes in."""
    num_done: int
    """Updates made."""
    moved: bool
    """Set as soon as a master may have moved; whoever wants to know sets it back."""
    publishing: Callable[[], AbstractContextManager[object]]
    """What ``publish`` enters while it works; whoever measures sets it."""

    @property
    def masters(self) -> Mapping[str, Tensor]:
        """The weights in full precision, by parameter name, with their gradients."""
        ...

    def zero(self) -> None:
        """Forget the gradients."""
        ...

    def gather(self, ranks: Ranks) -> None:
        """Make every gradient the sum over all ranks."""
        ...

    def norm(self) -> Tensor:
        """The norm of the gradient over all masters; 0 where there is none."""
        ...

    def step(self) -> dict[str, float]:
        """Clip, check, move; ``grad_norm`` before clipping, and ``lr``. Raises NonFinite."""
        ...

    def count(self) -> None:
        """One update is done: the masters moved. Raises NonFinite if one of them overflowed."""
        ...

    def publish(self) -> None:
        """Bring the masters into the weights that compute."""
        ...

    def full_precision(self) -> dict[str, Tensor]:
        """The masters by parameter name, for saving."""
        ...

    def set_weights(self, weights: dict[str, Tensor]) -> None:
        """Put the masters where ``full_precision`` said they were."""
        ...

    @property
    def master_bytes(self) -> int:
        """What all masters take, wherever they are."""
        ...

    @property
    def moment_bytes(self) -> int:
        """What the moments take, once there are any."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Moments and counts, flat, for a checkpoint."""
        ...

    def load(self, state: dict[str, Tensor], num_done: int) -> None:
        """Continue from a saved ``state``."""
        ...


MakeOptimizer = Callable[[Any, LearnSettings, int, torch.dtype, frozenset[str]], Optimizer]
"""From a model, settings, the number of updates, what it computes in, and the names of what computes in full."""


class LocalOptimizer:
    """Holds the masters and their gradients, moved as ``settings.optimizer`` says (``rules_of``); ``model`` is left
    computing in ``dtype``.

    In low precision, or with ``settings.offload``, the model's parameters become copies of the masters, and each
    parameter's gradient is added to its master's in float32 as soon as it is complete, then freed: accumulation over
    micro-batches loses nothing.
    """

    def __init__(
        self,
        model: Any,
        settings: LearnSettings,
        num_updates: int,
        dtype: torch.dtype,
        full: frozenset[str] = frozenset(),
    ) -> None:
        """``full`` names parameters that compute in at least float32 whatever ``dtype`` says. Raises UserError for an
        optimizer that this torch, or this model, is not made for."""
        self.settings, self.num_updates, self.dtype = settings, num_updates, dtype
        self.num_done, self.moved = 0, False
        self.publishing: Callable[[], AbstractContextManager[object]] = nullcontext
        if dtype == torch.float64:
            widen_norms(model)
        for parameter in model.parameters():
            if not parameter.requires_grad:  # under an adapter: computes along, never moves
                parameter.data = parameter.data.to(dtype)
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self._compute: dict[str, torch.nn.Parameter] = dict(named)
        self.masters: dict[str, Tensor] = {}
        for name, parameter in named:
            precise = torch.float64 if dtype == torch.float64 else torch.float32
            computed = precise if name in full else dtype
            apart = kept_apart(parameter.device, settings)
            if computed == precise and apart is None:
                parameter.data = parameter.data.to(precise)
                self.masters[name] = parameter
            else:
                self.masters[name] = parameter.data.to(apart or parameter.device, precise, copy=True).requires_grad_()
                parameter.data = parameter.data.to(computed)
                parameter.register_post_accumulate_grad_hook(self._collector(self.masters[name]))
        self._rules = rules_of(model, self.masters, settings)

    @staticmethod
    def _collector(master: Tensor) -> Callable[[Tensor], None]:
        def collect(parameter: Tensor) -> None:
            if parameter.grad is None:
                return
            grad = parameter.grad.to(master.device, master.dtype)
            master.grad = grad if master.grad is None else master.grad.add_(grad)
            parameter.grad = None

        return collect

    def zero(self) -> None:
        for master in self.masters.values():
            master.grad = None
        for parameter in self._compute.values():  # a pass that broke off may have left one on its way
            parameter.grad = None

    def gather(self, ranks: Ranks) -> None:
        """Make every gradient the sum over all ranks."""
        if ranks.size == 1:
            return
        masters = list(self.masters.values())
        for master in masters:  # a rank whose rows had none adds zeros
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        ranks.sum([m.grad for m in masters if m.grad is not None])

    def norm(self) -> Tensor:
        """The norm of the gradient over all masters."""
        return torch.nn.utils.get_total_norm([m.grad for m in self.masters.values() if m.grad is not None])

    def step(self) -> dict[str, float]:
        """Clip, check, move. Returns the gradient norm before clipping and the learning rate used.

        Raises NonFinite, before any weight changes, naming the first parameter whose gradient is not finite; and
        after the change if a weight overflowed, so that no such weights are ever saved.
        """
        for master in self.masters.values():
            if master.grad is None:  # no row had a gradient: the update is the momentum alone
                master.grad = torch.zeros_like(master)
        masters = list(self.masters.values())
        limit = self.settings.clip or math.inf
        total = self.norm()
        norm = float(total)
        if not math.isfinite(norm):
            raise NonFinite(self._blame())
        torch.nn.utils.clip_grads_with_norm_(masters, limit, total)
        rate = (self.settings.lr or 0.0) * schedule(self.num_done, self.num_updates, self.settings)
        self.moved = True
        for rule in self._rules:
            rule.step(rate)
        self.count()
        return {"grad_norm": norm, "lr": rate}

    def count(self) -> None:
        """One update is done: the masters moved. Raises NonFinite if one of them overflowed."""
        finite = torch.isfinite(torch.stack([master.detach().sum() for master in self.masters.values()])).tolist()
        if not all(finite):
            raise NonFinite(f"the update left {list(self.masters)[finite.index(False)]} not finite")
        self.num_done += 1
        self.publish()

    def _blame(self) -> str:
        for name, master in self.masters.items():
            bad = int((~torch.isfinite(master.grad)).sum()) if master.grad is not None else 0
            if bad:
                return f"the gradient of {name} is not finite in {bad} of {master.numel()} entries"
        return "the gradient's norm overflows though every entry is finite"

    def publish(self) -> None:
        """Round the masters into the compute weights, once an update."""
        with self.publishing(), torch.no_grad():
            for name, master in self.masters.items():
                if self._compute[name] is not master:
                    self._compute[name].copy_(master)

    def full_precision(self) -> dict[str, Tensor]:
        """The masters by parameter name, for saving."""
        return {name: master.detach() for name, master in self.masters.items()}

    @torch.no_grad()
    def set_weights(self, weights: dict[str, Tensor]) -> None:
        """Put the masters where ``full_precision`` said they were."""
        self.moved = True
        for name, master in self.masters.items():
            master.copy_(weights[name])
        self.publish()

    @property
    def master_bytes(self) -> int:
        """What all masters take."""
        return sum(master.numel() * master.element_size() for master in self.masters.values())

    @property
    def moment_bytes(self) -> int:
        """What the moments take, once there are any."""
        return sum(rule.moment_bytes for rule in self._rules)

    def state(self) -> dict[str, Tensor]:
        """Moments and counts as a flat dictionary of tensors (for safetensors)."""
        return {key: tensor for rule in self._rules for key, tensor in rule.state().items()}

    def load(self, state: dict[str, Tensor], num_done: int) -> None:
        """Continue from a saved ``state``. Raises UserError if it belongs to other parameters, or another optimizer."""
        if state and set(state) != {key for rule in self._rules for key in rule.names()}:
            asked = {"optimizer": self.settings.optimizer, "moments": self.settings.moments}
            for (name, mine), theirs in zip(
                asked.items(), owner_of(state, self.masters) or asked.values(), strict=True
            ):
                if mine != theirs:
                    raise UserError(
                        f"the checkpoint's optimizer state is of learn.{name} = {theirs!r}, and this run has {mine!r}; "
                        "go on with the first, or start a new run from its model"
                    )
            raise UserError("the checkpoint's optimizer state is of another model; resume with the run's own folder")
        if state:
            for rule in self._rules:
                rule.load(state)
        self.num_done = num_done
