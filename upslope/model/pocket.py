"""The pocket world's model and tokenizer, made from scratch: nothing to download, 172k parameters, 2 CPU cores.

The tokenizer knows whole words and whole numbers up to 99. Single digits were tried first: 800 steps then taught the
model half of its products, where one token a number teaches 84 % of them in 400 steps (the other operations follow).
Tokens are set apart by spaces, so encoding what was decoded gives back the same tokens, whatever a policy writes.
"""

from __future__ import annotations

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from upslope.tasks.pocket_templates import words

PAD, END, UNKNOWN = SPECIAL = ("<|pad|>", "<|end|>", "<|unknown|>")
MAX_POSITIONS = 256
LARGEST_NUMBER = 99
"""Larger numbers are unknown to the tokenizer; the task has none."""
INITIALIZER_RANGE = 0.08
"""Wider than the usual 0.02, which suits models ten times as wide."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '\n' }}{% endif %}"
    "{% endfor %}"
)
"""A line asks, what follows answers, as in the pretraining text. With a token for each role, and no examples in that
text, imitation left one model of three at 7 %: reading across tokens never seen before did not always come."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Words, signs and numbers.

    >>> tokenizer = build_tokenizer()
    >>> ids = tokenizer.encode("Tom has 18 apples.")
    >>> tokenizer.convert_ids_to_tokens(ids)
    ['Tom', 'has', '18', 'apples', '.']
    >>> tokenizer.decode(ids)
    'Tom has 18 apples.'
    """
    vocabulary = [*SPECIAL, "\n", *map(str, range(LARGEST_NUMBER + 1)), *words()]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[A-Za-z]+|[0-9]+|#+|\n|[^\sA-Za-z0-9#]"), "removed", invert=True)
    core.decoder = decoders.Sequence(
        [
            decoders.Replace(Regex(r"^"), " "),
            decoders.Fuse(),
            decoders.Replace(Regex(r"^ | (?=[.,?\n])|(?<=\n) "), ""),
        ]
    )
    core.add_special_tokens(list(SPECIAL))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(seed: int) -> LlamaForCausalLM:
    """A Llama that knows nothing yet; the weights are a function of the seed, and torch's generator is left alone."""
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        initializer_range=INITIALIZER_RANGE,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
