"""From a model to a learner: adapter, critic, reference, optimizer, as the recipe and the settings want them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from upslope.algo.critic import Critic, OwnCopy
from upslope.algo.recipe import Recipe
from upslope.errors import UserError
from upslope.model import attention
from upslope.model.adapter import add_adapter, has_adapter, load_adapter
from upslope.model.critic import value_model
from upslope.model.load import load
from upslope.model.policy import Policy
from upslope.model.precision import pick_dtype
from upslope.model.reference import Reference
from upslope.train.checkpoint import Checkpoint
from upslope.train.critic import make_critic
from upslope.train.files import whole_folder
from upslope.train.learner import Learner
from upslope.train.optimizer import Optimizer
from upslope.train.settings import LearnSettings, RunSettings


def assemble(
    model: Any, tokenizer: Any, recipe: Recipe, settings: RunSettings, folder: Path, saved: Checkpoint | None
) -> Learner:
    """A learner around ``model``: the start of the run, or (``saved``) what the checkpoint holds.

    With ``learn.lora_rank`` the model is the frozen base in both cases. A reference that is not the base under an
    adapter is kept in ``folder/reference``, so that a resumed run has the one it began with.
    """
    learn, device = settings.learn, next(model.parameters()).device
    value = None
    attention.admit(model)
    if recipe.has_critic:
        value = value_model(model, own_copy=isinstance(recipe.critic, OwnCopy))
    model = with_adapter(model, learn, settings.seed, saved).to(device)
    policy = Policy(model, tokenizer)
    reference = make_reference(policy, folder, saved) if recipe.refers else None
    dtype = compute_dtype(learn, recipe, model, device)
    num_updates = settings.steps * recipe.reuse.num_updates
    optimizer = Optimizer(model, learn, num_updates, dtype)
    if reference is not None and reference.frozen is not None:
        reference.frozen.model.to(dtype)
    critic = make_critic(cast(Critic, recipe.critic), value, optimizer) if value is not None else None
    return Learner(policy, recipe, settings.sample.sampling(), learn, optimizer, reference, critic)


def with_adapter(model: Any, learn: LearnSettings, seed: int, saved: Checkpoint | None) -> Any:
    """The model with the adapter that the settings ask for, fresh or saved; as it is if they ask for none."""
    if not learn.lora_rank:
        return model
    if has_adapter(model):
        raise UserError("learn.lora_rank: the model has an adapter already; leave lora_rank at 0 to train that one on")
    if saved is not None:
        return load_adapter(model, saved.folder)
    return add_adapter(model, rank=learn.lora_rank, alpha=learn.lora_alpha, targets=learn.lora_targets, seed=seed)


def make_reference(policy: Policy, folder: Path, saved: Checkpoint | None) -> Reference:
    """The policy as it was when the run began, read back from the run's folder if the run is a resumed one."""
    reference = Reference.of(policy) if saved is None or has_adapter(policy.model) else None
    place = folder / "reference"
    if reference is None:
        model, tokenizer = load(str(place))
        model = model.to(policy.device).requires_grad_(False)
        return Reference(policy, Policy(model, tokenizer))
    if reference.frozen is not None:
        with whole_folder(place) as aside:
            reference.frozen.save(aside)
    return reference


def compute_dtype(learn: LearnSettings, recipe: Recipe, model: Any, device: torch.device) -> torch.dtype:
    """What to compute in. Curvature is a difference of differences: bfloat16 leaves nothing of it."""
    if "curvature" not in recipe.needs:
        return pick_dtype(learn.dtype, model, device)
    if learn.dtype == "bfloat16":
        raise UserError("learn.dtype = 'bfloat16' cannot carry curvature, which update=kl_ball needs; set float32")
    return torch.float64 if learn.dtype == "float64" else torch.float32
