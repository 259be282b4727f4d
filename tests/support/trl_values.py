"""What TRL's own trainer gets from the published reward files, on standard output: python trl_values.py FOLDER.

One step of GRPO on four problems. Its attempts are given, every function is called by the trainer, through a wrapper
that writes down what it returned.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "published_rewards")]

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from published import PUBLISHED, QUESTIONS, RESPONSES, Published, rows  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

from upslope.model.byte_pairs import SMALLEST, learn_tokenizer  # noqa: E402


def question(prompt: Any) -> str:
    return str(prompt if isinstance(prompt, str) else prompt[-1]["content"])


def recorded(one: Published, said: dict[str, dict[str, Any]]) -> Any:
    """The function, unchanged, as the trainer calls it; its values by problem."""
    module, _, name = one.spec.partition(":")
    function = getattr(importlib.import_module(module), name)

    def keep(result: Any, prompts: Any) -> Any:
        values = [None if value is None else float(value) for value in result]
        torch.set_grad_enabled(True)  # TRL puts nothing back, and could not take its step
        torch.set_default_dtype(torch.float32)
        signal.alarm(0)
        said[one.spec] = dict(zip(map(question, prompts), values, strict=True))
        return values

    if inspect.iscoroutinefunction(function):

        async def waits(prompts: Any, **given: Any) -> Any:
            return keep(await function(prompts=prompts, **given), prompts)

        wrapper: Any = waits
    else:
        wrapper = functools.partial(lambda prompts, **given: keep(function(prompts=prompts, **given), prompts))
    wrapper.__name__ = one.spec
    return wrapper


def trained(folder: Path, *, chat: bool) -> dict[str, dict[str, Any]]:
    tokenizer = learn_tokenizer(RESPONSES, SMALLEST)
    tokenizer.padding_side = "left"
    response_of = dict(zip(QUESTIONS, RESPONSES, strict=True))
    said: dict[str, dict[str, Any]] = {}

    def given(prompts: Any, trainer: Any) -> dict[str, Any]:
        asked = [tokenizer(question(prompt)).input_ids for prompt in prompts]
        ids = [[*tokenizer(response_of[question(p)]).input_ids, tokenizer.eos_token_id] for p in prompts]
        said["tokens"] = {question(p): own for p, own in zip(prompts, ids, strict=True)}
        return {"prompt_ids": asked, "completion_ids": ids, "logprobs": [[0.0] * len(own) for own in ids]}

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = GRPOConfig(
        str(folder),
        max_steps=1,
        per_device_train_batch_size=8,
        num_generations=2,
        max_completion_length=64,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model=LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)),
        reward_funcs=[recorded(one, said) for one in PUBLISHED if one.chat == chat],
        args=config,
        train_dataset=Dataset.from_list(rows(chat=chat)),
        processing_class=tokenizer,
        rollout_func=given,
    )
    trainer.train()
    return said


if __name__ == "__main__":
    torch.manual_seed(0)
    out, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps([trained(Path(sys.argv[1]), chat=chat) for chat in (False, True)]), file=out)
