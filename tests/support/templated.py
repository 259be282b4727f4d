"""A small tokenizer of bytes with the special tokens and the chat template of a public family of models.

The templates beside this file write what the families' own write of chats, calls of tools and thinking, in fewer words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

FOLDER = Path(__file__).parent / "templates"
CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SPECIAL: dict[str, tuple[str, ...]] = {
    "smollm2": CHATML,
    "qwen2.5": CHATML,
    "qwen3": CHATML,
    "marked": CHATML,
    "llama3": ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma": ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
    "mistral": ("<s>", "</s>", "[INST]", "[/INST]"),
}
"""The special tokens of each family."""
EOS = {"qwen2.5": "<|endoftext|>", "llama3": "<|end_of_text|>", "gemma": "<eos>", "mistral": "</s>"}
"""The tokenizer's end token; ``<|im_end|>`` elsewhere. Base models name another than their template writes."""
BOS = {"llama3": "<|begin_of_text|>", "gemma": "<bos>", "mistral": "<s>"}
END = {"llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "mistral": "</s>"}
"""What the template ends a turn with; ``<|im_end|>`` elsewhere."""


def tokenizer(family: str, template: str | None = None, special: tuple[str, ...] = ()) -> Any:
    """Bytes, a few merges, and the family's special tokens, and more. ``template`` in place of the family's own."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    text = ["The answer is 4. What is 2 + 2? I think of it. Thank you, and good bye. assistant user system"] * 4
    made.train_from_iterator(text, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False))
    eos, bos = EOS.get(family, "<|im_end|>"), BOS.get(family)
    others = [token for token in (*SPECIAL[family], *special) if token not in (eos, bos)]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=eos, bos_token=bos, additional_special_tokens=others
    )
    fast.chat_template = (FOLDER / f"{family}.jinja").read_text(encoding="utf-8") if template is None else template
    return fast
