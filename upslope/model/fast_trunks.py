"""The fast trunks there are, and the one that a model gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from upslope.model.fast import FastTrunk
from upslope.model.llama.admission import native_trunk
from upslope.model.precision import agree

Admit = Callable[[Any], FastTrunk | None]
"""The fast trunk of a transformers body. None if the body is none of the family, or does anything that is not computed
there: an adapter on a layer, another activation, another precision or device."""

_ADMITS: list[Admit] = [native_trunk]


def register_fast_trunk(admit: Admit) -> Admit:
    """Let models run on a trunk of one's own: ``admit(body)`` gives it, or None. May stand as a decorator.

    Whoever was registered last is asked first. Policies that are made from now on take the trunk, if its hidden states
    agree with the model's (``precision.agree``); a policy that has been made stays as it is.
    """
    if admit not in _ADMITS:
        _ADMITS.insert(0, admit)
    return admit


def unregister_fast_trunk(admit: Admit) -> None:
    """Policies made from now on do without it. Raises ValueError if it is not registered."""
    _ADMITS.remove(admit)


def measured(body: Any, states: Callable[[FastTrunk], Tensor], expected: Callable[[], Tensor]) -> Admit | None:
    """The first way to a fast trunk for this body whose ``states`` are the ``expected`` ones but for rounding."""
    for admit in _ADMITS:
        trunk = admit(body)
        if trunk is not None and agree(states(trunk), expected()):
            return admit
    return None
