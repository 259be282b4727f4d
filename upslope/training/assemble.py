"""From a model to a learner: adapter, critic, reference, optimizer, as the recipe and the settings want them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from upslope.algo.critic import OwnCopy
from upslope.algo.recipe import Recipe
from upslope.errors import UserError
from upslope.learn.build import build_learner
from upslope.learn.learner import Learner
from upslope.learn.settings import LearnSettings
from upslope.model import admission
from upslope.model.adapter import add_adapter, has_adapter, load_adapter
from upslope.model.hf import recompute_layers
from upslope.model.load import load
from upslope.model.policy import Policy
from upslope.model.precision import cast_weights, pick_dtype
from upslope.model.reference import Reference
from upslope.model.value import value_model
from upslope.record.checkpoint import Checkpoint
from upslope.record.load import load_model
from upslope.record.recorder import Recorder
from upslope.training.settings import RunSettings
from upslope.training.shares import share_memory


def assemble(
    model: Any,
    tokenizer: Any,
    recipe: Recipe,
    settings: RunSettings,
    recorder: Recorder,
    saved: Checkpoint | None,
    build: Callable[..., Learner] = build_learner,
    device: torch.device | None = None,
) -> Learner:
    """A learner around ``model``: the start of the run, or (``saved``) what the checkpoint holds.

    With ``learn.lora_rank`` the model is the frozen base in both cases, and the base is the reference; a copy of the
    policy is kept by the recorder, so that a resumed run has the one it had. The order matters: the critic copies the
    model before an adapter is added, the reference copies it before anything is cast. ``build`` takes what
    ``build_learner`` does; ``device`` is where it all goes, None: where the model is.
    """
    learn, device = settings.learn, device or next(model.parameters()).device
    if not learn.lora_rank or recipe.has_critic:
        model = model.to(device)
    value = None
    admission.admit(model)
    if recipe.has_critic:
        value = value_model(model, own_copy=isinstance(recipe.critic, OwnCopy))
    model = with_adapter(model, learn, settings.seed, saved)
    dtype = compute_dtype(learn, recipe, model, device)
    model = onto(model, device, dtype) if learn.lora_rank else model
    policy = Policy(model, tokenizer)
    share_memory(policy, settings)
    reference = None
    if recipe.refers:
        reference = refer(policy, settings, recorder, saved)
        if reference.frozen is not None:
            cast_weights(reference.frozen.model, dtype)
    if learn.checkpoint_activations:
        policy.checkpoint_activations()
        if value is not None and value.trunk is not None:
            recompute_layers(value.trunk)
    learner = build(
        policy,
        recipe,
        learn,
        sampling=settings.sample.sampling(),
        num_updates=settings.steps * recipe.reuse.num_updates,
        dtype=dtype,
        reference=reference,
        value=value,
    )
    learner.scorer.top = settings.save.top_logps
    return learner


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


def onto(model: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A model with an adapter, moved to the device: there what is frozen arrives in ``dtype``, so that the base is
    never held in full beside what computes. The adapter, and the critic's copy made before, keep their precision."""
    if device.type != "cpu":
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
    return model.to(device)


def refer(policy: Policy, settings: RunSettings, recorder: Recorder, saved: Checkpoint | None) -> Reference:
    """The reference: the model that the settings name, the policy without its adapter, or a copy of the policy as it
    was when the run began, or was last made the reference, read back if the run is resumed."""
    if settings.reference.model:
        return chosen_reference(policy, settings.reference.model)
    kept = recorder.reference(saved.step) if saved is not None else None
    if kept is not None:
        model, tokenizer = load(str(kept))
        return Reference(policy, Policy(model.to(policy.device).requires_grad_(False), tokenizer, policy.renderer))
    if settings.learn.lora_rank:
        return Reference(policy, None)
    if saved is not None:
        raise UserError(f"{recorder.folder} has lost its reference, which this recipe needs; start the run anew")
    recorder.keep_reference(0, policy)
    return Reference.of(policy)


def chosen_reference(policy: Policy, name: str) -> Reference:
    """Another model as the reference. Raises UserError unless it reads the policy's tokens as the policy does."""
    model, tokenizer = load_model(name)
    if tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise UserError(
            f"reference.model = {name!r} has another vocabulary than the policy, so its log-probabilities would be of "
            "other tokens; choose a model with the same tokenizer"
        )
    other = Policy(model.to(policy.device).requires_grad_(False), tokenizer, policy.renderer)
    if other.vocabulary != policy.vocabulary:
        raise UserError(
            f"reference.model = {name!r} has {other.vocabulary} logits a token, and the policy {policy.vocabulary}; "
            "choose a model with as many"
        )
    return Reference(policy, other)


def compute_dtype(learn: LearnSettings, recipe: Recipe, model: Any, device: torch.device) -> torch.dtype:
    """What to compute in. Curvature is a difference of differences: bfloat16 leaves nothing of it."""
    if "curvature" not in recipe.needs:
        return pick_dtype(learn.dtype, model, device)
    if learn.dtype == "bfloat16":
        raise UserError("learn.dtype = 'bfloat16' cannot carry curvature, which update=kl_ball needs; set float32")
    if learn.offload and device.type != "cpu":
        raise UserError(
            "learn.offload is for an optimizer, and update=kl_ball has none and computes on the weights; set false"
        )
    return torch.float64 if learn.dtype == "float64" else torch.float32
