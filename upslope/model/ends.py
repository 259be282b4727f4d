"""Which tokens end a response."""

from __future__ import annotations

from typing import Any

from upslope.errors import UserError


def find_end_ids(tokenizer: Any, generation_config: Any = None) -> tuple[int, ...]:
    """Every token that ends a response: the tokenizer's, then those of the model's generation config.

    Read from the tokens themselves, never from padding: the pad token may be the end token.
    Raises UserError if there is none.
    """
    listed = getattr(generation_config, "eos_token_id", None)
    more = listed if isinstance(listed, list) else [listed]
    listed = [i for i in (tokenizer.eos_token_id, *more) if i is not None]
    wrong = [i for i in listed if type(i) is not int or i < 0]
    if wrong:
        raise UserError(
            f"the model's eos_token_id {wrong[0]!r} is no token; mend its generation_config.json or config.json"
        )
    found = dict.fromkeys(listed)
    if not found:
        raise UserError("the tokenizer has no end token (eos_token); set one in its tokenizer_config.json")
    return tuple(found)
