"""From a model to a learner: adapter, critic, reference, optimizer, as the recipe and the settings want them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from upslope.algo.critic import Critic, OwnCopy
from upslope.algo.recipe import Recipe
from upslope.errors import UserError
from upslope.learn.critic_learner import make_critic
from upslope.learn.learner import Learner
from upslope.learn.optimizer import Optimizer
from upslope.learn.settings import LearnSettings
from upslope.model import attention
from upslope.model.adapter import add_adapter, has_adapter, load_adapter
from upslope.model.hf import recompute_layers
from upslope.model.load import load
from upslope.model.policy import Policy
from upslope.model.precision import cast_weights, pick_dtype
from upslope.model.reference import Reference
from upslope.model.value import value_model
from upslope.record.checkpoint import Checkpoint
from upslope.record.files import whole_folder
from upslope.train.settings import RunSettings


def assemble(
    model: Any, tokenizer: Any, recipe: Recipe, settings: RunSettings, folder: Path, saved: Checkpoint | None
) -> Learner:
    """A learner around ``model``: the start of the run, or (``saved``) what the checkpoint holds.

    With ``learn.lora_rank`` the model is the frozen base in both cases, and the base is the reference; any other
    reference is kept in ``folder/reference``, so that a resumed run has the one it began with. The order matters: the
    critic copies the model before an adapter is added, the reference copies it before anything is cast.
    """
    learn, device = settings.learn, next(model.parameters()).device
    value = None
    attention.admit(model)
    if recipe.has_critic:
        value = value_model(model, own_copy=isinstance(recipe.critic, OwnCopy))
    model = with_adapter(model, learn, settings.seed, saved).to(device)
    policy = Policy(model, tokenizer)
    dtype = compute_dtype(learn, recipe, model, device)
    reference = None
    if recipe.refers:
        reference = Reference(policy, None) if learn.lora_rank else kept_reference(policy, folder, saved)
        if reference.frozen is not None:
            cast_weights(reference.frozen.model, dtype)
    if learn.checkpoint_activations:
        policy.checkpoint_activations()
        if value is not None and value.trunk is not None:
            recompute_layers(value.trunk)
    num_updates = settings.steps * recipe.reuse.num_updates
    optimizer = Optimizer(model, learn, num_updates - critic_warmup(recipe), dtype)
    critic = make_critic(cast(Critic, recipe.critic), value, optimizer, num_updates) if value is not None else None
    return Learner(policy, recipe, settings.sample.sampling(), learn, optimizer, reference, critic)


def saved_in(model: Any) -> str:
    """The directory a model was loaded from; empty if it was not (made from scratch, or the hub's)."""
    name = str(getattr(model, "name_or_path", "") or "")
    return name if name and Path(name).is_dir() else ""


def with_adapter(model: Any, learn: LearnSettings, seed: int, saved: Checkpoint | None) -> Any:
    """The model with the adapter that the settings ask for, fresh or saved; as it is if they ask for none."""
    if not learn.lora_rank:
        return model
    if has_adapter(model):
        raise UserError("learn.lora_rank: the model has an adapter already; leave lora_rank at 0 to train that one on")
    if not saved_in(model) and not getattr(model.config, "_commit_hash", None):
        raise UserError(
            "learn.lora_rank: the model lies in no directory that an adapter's checkpoint could name; train from a "
            "directory, a run folder, pocket:pretrained or pocket:sft"
        )
    if learn.dtype == "float64":
        cast_weights(model, torch.float64)  # an adapter is loaded in its base's precision
    if saved is not None:
        return load_adapter(model, saved.folder)
    return add_adapter(model, rank=learn.lora_rank, alpha=learn.lora_alpha, targets=learn.lora_targets, seed=seed)


def kept_reference(policy: Policy, folder: Path, saved: Checkpoint | None) -> Reference:
    """A copy of the policy as it was when the run began, read back from the run's folder if the run is resumed."""
    place = folder / "reference"
    if saved is not None:
        model, tokenizer = load(str(place))
        return Reference(policy, Policy(model.to(policy.device).requires_grad_(False), tokenizer, policy.renderer))
    reference = Reference.of(policy)
    with whole_folder(place) as aside:
        policy.save(aside)
    return reference


def critic_warmup(recipe: Recipe) -> int:
    """Updates in which the critic alone learns."""
    return int(getattr(recipe.critic, "warmup", 0))


def compute_dtype(learn: LearnSettings, recipe: Recipe, model: Any, device: torch.device) -> torch.dtype:
    """What to compute in. Curvature is a difference of differences: bfloat16 leaves nothing of it."""
    if "curvature" not in recipe.needs:
        return pick_dtype(learn.dtype, model, device)
    if learn.dtype == "bfloat16":
        raise UserError("learn.dtype = 'bfloat16' cannot carry curvature, which update=kl_ball needs; set float32")
    return torch.float64 if learn.dtype == "float64" else torch.float32
