"""Models made from nothing: a Llama of a given shape, or any causal config of transformers, with random weights."""

from __future__ import annotations

import math
from dataclasses import fields
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

from upslope.errors import UserError
from upslope.model.chat_renderer import ChatRenderer
from upslope.model.hf import quiet_loading, text_config
from upslope.model.load import open_tokenizer, unloadable
from upslope.model.names import config_of_new, is_new, is_pocket
from upslope.model.pocket import build_tokenizer
from upslope.model.precision import agree
from upslope.model.settings import NewModelSettings
from upslope.model.shape import derived_shape, num_weights, require_memory
from upslope.model.sound import require_sound

INTO_RESIDUAL = ("o_proj.weight", "down_proj.weight")
"""What is added to the residual stream, twice a layer."""
FOR_ANY = ("tokenizer",)
"""The settings that a config of one's own leaves open; it says the rest itself."""


def resolved_new(name: str, new: NewModelSettings) -> NewModelSettings:
    """The settings of a new model with nothing left out that they decide; those of another model, which must be none,
    as they are. Raises UserError for a setting that would change nothing, and for a shape that cannot be."""
    given = [f.name for f in fields(new) if getattr(new, f.name) != f.default]
    if not is_new(name):
        if given:
            raise UserError(f"new.{given[0]} is for a new model, and model = {name!r} is none; leave it out, or set "
                            "model to new:llama or new:DIR")  # fmt: skip
        return new
    config = config_of_new(name)
    if not config:
        if name != "new:llama":
            raise UserError(f"model {name!r} is no new model; give new:llama, new:DIR or new:FILE.json")
        if not new.tokenizer:
            raise UserError(
                "new:llama needs a vocabulary: set new.tokenizer to a directory (`upslope tokenizer` makes one), or to "
                "pocket"
            )
        return derived_shape(new)
    own = [key for key in given if key not in FOR_ANY]
    if own:
        raise UserError(
            f"new.{own[0]} is for new:llama; {config} says the shape of model {name!r} itself, so change it there"
        )
    _config_file(name)
    return new


def new_model(name: str, new: NewModelSettings, seed: int) -> tuple[Any, Any]:
    """(model in float32, tokenizer). The weights are a function of the seed, and torch's generator is left alone.

    ``new:llama`` draws every matrix from a generator of its own (``init_llama``); a config's model is initialised as
    transformers does for its architecture. Raises UserError in one line.
    """
    new = resolved_new(name, new)
    if not config_of_new(name):
        tokenizer = tokenizer_for_new(new.tokenizer)
        what = f"new:llama with {new.layers:,} layers of width {new.width:,}"
        require_memory(what, num_weights(new, num_tokens(tokenizer)))
        with torch.random.fork_rng(devices=[]):  # transformers draws weights too, which are replaced
            model = LlamaForCausalLM(llama_config(new, tokenizer))
        return init_llama(model, _std(new), seed), tokenizer
    file = _config_file(name)
    try:
        with quiet_loading():
            config = AutoConfig.from_pretrained(str(file), trust_remote_code=False)
            require_sound(config)
            tokenizer = tokenizer_for_new(new.tokenizer or str(file.parent))  # a tokenizer's loading reads it as well
            _take_vocabulary(config, tokenizer, name, replaced=bool(new.tokenizer))
            with torch.device("meta"):  # shapes alone
                shapes = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
            require_memory(f"model {name!r}", shapes.num_parameters())
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False).eval()
            _require_causal(model, name)
    except UserError:
        raise
    except Exception as error:  # what a strange configuration makes transformers raise is anything
        raise unloadable(name, error) from error
    return model, tokenizer


def new_model_words(name: str, new: NewModelSettings) -> tuple[Any, Any]:
    """(tokenizer, generation config) of the same, without the weights; no config where the tokenizer alone says what
    ends a response. Raises UserError in one line."""
    if new.tokenizer:
        return tokenizer_for_new(new.tokenizer), None  # whatever its shape will be
    resolved_new(name, new)
    file = _config_file(name)
    try:
        with quiet_loading():
            config = AutoConfig.from_pretrained(str(file), trust_remote_code=False)
            return tokenizer_for_new(str(file.parent)), GenerationConfig.from_model_config(config)
    except UserError:
        raise
    except Exception as error:  # as in ``new_model``
        raise unloadable(name, error) from error


def tokenizer_for_new(name: str) -> Any:
    """The tokenizer of a directory or of the hub, or pocket's. Raises UserError."""
    return build_tokenizer() if is_pocket(name) else open_tokenizer(name)


def num_tokens(tokenizer: Any) -> int:
    """Rows that an embedding needs: the largest id and those below it, also where some are not taken."""
    return max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=-1))


def llama_config(shape: NewModelSettings, tokenizer: Any) -> LlamaConfig:
    """The config of a Llama of this (derived) shape: no biases, rotary positions with base 10,000."""
    return LlamaConfig(
        vocab_size=num_tokens(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=shape.tied,
        initializer_range=shape.init_std,
        use_cache=True,
        dtype="float32",
        **_special_ids(tokenizer),
    )


def init_llama(model: LlamaForCausalLM, std: float, seed: int) -> LlamaForCausalLM:
    """Draw the weights of a Llama anew: every matrix from N(0, std^2), those that write to the residual stream from
    N(0, std^2 / (2 layers)), so that its variance does not grow with the depth (GPT-2, Radford et al. 2019, section
    2.3); norms are 1.

    Every matrix has a generator of its own, by the seed and its name: no other matrix, and nothing that was drawn
    before, changes it.
    """
    scale = 1 / math.sqrt(2 * model.config.num_hidden_layers)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                nn.init.ones_(weight)
                continue
            generator = torch.Generator().manual_seed(weights_key(seed, name))
            nn.init.normal_(weight, 0.0, std * scale if name.endswith(INTO_RESIDUAL) else std, generator=generator)
    return model.eval()


def weights_key(seed: int, name: str) -> int:
    """63 bits for the weights of one name."""
    return int.from_bytes(blake2b(f"{seed}\x00new\x00{name}".encode(), digest_size=8).digest(), "little") >> 1


def end_ids_of(tokenizer: Any) -> list[int]:
    """The tokenizer's end token, and the special token with which its chat template ends an assistant's turn."""
    own = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    written = ChatRenderer(tokenizer, own).written_end if tokenizer.chat_template else None
    return list(dict.fromkeys([*own, *(() if written is None else (written,))]))


def _special_ids(tokenizer: Any) -> dict[str, Any]:
    """What a config says of special tokens, by a tokenizer: one that ends everything, or a list. A padding token that
    is also read, as the end or the start, is left out: an embedding gives the padding token's row no gradient."""
    ends = end_ids_of(tokenizer)
    pad = tokenizer.pad_token_id
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": None if pad in (*ends, tokenizer.bos_token_id) else pad,
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
    }


def _take_vocabulary(config: Any, tokenizer: Any, name: str, *, replaced: bool) -> None:
    """Give a config the vocabulary of a tokenizer from elsewhere, or see that its own is large enough; of its own,
    leave out a padding token that is read as well. Raises
    UserError; also for what a config asks of weights that are not there."""
    if getattr(config, "quantization_config", None):
        raise UserError(f"model {name!r}: its config.json has a quantization_config, and new weights are not quantized")
    text, num = config.get_text_config(decoder=True), num_tokens(tokenizer)
    read = (*end_ids_of(tokenizer), tokenizer.bos_token_id)
    for part in {id(config): config, id(text): text}.values():
        if getattr(part, "pad_token_id", None) in read:  # as in ``_special_ids``
            part.pad_token_id = None
        if replaced:
            for key, value in ({"vocab_size": num} | _special_ids(tokenizer)).items():
                if hasattr(part, key):
                    setattr(part, key, value)
    size = getattr(text, "vocab_size", None)
    if not isinstance(size, int) or size < num:
        raise UserError(
            f"model {name!r}: its config.json has vocab_size = {size}, and the tokenizer beside it has {num} tokens; "
            "set new.tokenizer, and the config takes that one's vocabulary"
        )


def _require_causal(model: Any, name: str) -> None:
    """Raise UserError if what a model says of a token depends on later ones: an encoder, to which transformers gives a
    head like any other."""
    vocabulary = text_config(model).vocab_size
    ids = torch.arange(1, 9).repeat(2, 1) % vocabulary
    ids[1, -1] = (ids[0, -1] + 1) % vocabulary
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    if not agree(logits[1], logits[0]):
        raise UserError(
            f"model {name!r}: a {type(model).__name__} sees the tokens it should predict; give the config of a causal "
            "language model"
        )


def _config_file(name: str) -> Path:
    """The config of ``new:DIR`` or ``new:FILE.json``. Raises UserError if there is none."""
    path = Path(config_of_new(name))
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        what = "the directory holds no config.json" if path.is_dir() else "there is no such directory or file"
        raise UserError(f"model {name!r}: {what}; give new:llama, new:DIR or new:FILE.json")
    return file


def _std(shape: NewModelSettings) -> float:
    assert shape.init_std is not None, "a derived shape has one"
    return shape.init_std
