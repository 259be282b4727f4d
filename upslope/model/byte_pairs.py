"""A tokenizer learnt from text: byte-level byte-pair encoding, special tokens, a chat template."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from upslope.errors import UserError

END, TURN, TURN_END, PADDING = CHAT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
"""The end of a text, the start and end of a turn, and what fills rows up: a token of its own, since elsewhere it is
masked by its id, and an end that fills as well would never be learnt."""
SMALLEST = 256 + len(CHAT_TOKENS)
"""All bytes and the special tokens: the vocabulary of no merge."""
LARGEST = 1_000_000
"""More is a slip of the finger; the largest in use have a quarter of it."""
SEEN = 2
"""Times that a pair must be there to become a token: what is there once says nothing of other text."""
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}{1,64}|\p{N}| ?[^\s\p{L}\p{N}]{1,64}[\r\n]{0,64}|"
    r"\s{0,64}[\r\n]{1,64}|\s{1,64}(?!\S)|\s{1,64}"
)
"""Where text is cut before bytes are paired (Qwen2's pattern, which is cl100k's with single digits): nothing merges
across words, or across digits. A number is then always the same row of digits, whose places line up in arithmetic.
With groups of three, counted from the left, they do not (Singh and Strouse 2024, arXiv:2402.14903), and a thousand
groups would be an eighth of a vocabulary of 8192. A piece ends after 64 characters of a kind, as no word is longer: the
time to learn grows with the square of a piece, and a megabyte of one letter, or of DNA, would take days."""
TEMPLATE = (
    "{% if tools %}{{ raise_exception('this chat template has no place for tools; say in a message what there is') }}"
    "{% endif %}"
    "{% for message in messages %}"
    "{% if message['tool_calls'] %}"
    "{{ raise_exception('this chat template has no place for tool_calls; write the call in the content') }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML: every turn names its role (system, user, assistant, tool). What the assistant writes, its end included, is
marked, so that imitation counts these tokens and no others."""
BATCH = 256
"""Texts handed over at once."""


def learn_tokenizer(texts: Iterable[str], vocabulary: int, *, progress: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer of ``vocabulary`` tokens, learnt from the texts as they pass (Sennrich et al. 2016, arXiv:1508.07909,
    over bytes as GPT-2): any text comes back from its tokens as it was. Equal texts give equal files, in any order and
    on any number of threads.

    Raises UserError for a vocabulary that is too small for the bytes, or larger than what the texts have pairs for;
    whatever ``texts`` raises.
    """
    require_vocabulary(vocabulary)
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=SEEN,
        special_tokens=list(CHAT_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=progress,
    )
    core.train_from_iterator(_batches(texts), trainer)
    found = core.get_vocab_size()
    if found < vocabulary:
        raise UserError(
            f"a vocabulary of {vocabulary:,} tokens (vocab): the text has pairs for {found:,} only; ask for at most "
            f"{found}, or give more text"
        )
    return with_chat(core)


def require_vocabulary(vocabulary: int) -> None:
    """Raise UserError for a size that no vocabulary over bytes has."""
    if vocabulary < SMALLEST:
        raise UserError(
            f"a vocabulary of {vocabulary} tokens (vocab) must have at least {SMALLEST}: 256 bytes and "
            f"{len(CHAT_TOKENS)} special tokens"
        )
    if vocabulary > LARGEST:
        raise UserError(
            f"a vocabulary of {vocabulary:,} tokens (vocab) must have at most {LARGEST:,}; 8192 suits a model of ten "
            "million weights"
        )


def with_chat(core: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers has it: end and padding named, the chat template beside it."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token=PADDING,
        additional_special_tokens=[TURN, TURN_END],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while batch := list(islice(rest, BATCH)):
        yield batch
