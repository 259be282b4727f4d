"""Reward files of the shapes that users publish (tests/published_rewards), and what they say of four responses."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).resolve().parent.parent / "published_rewards"
RESPONSES = (
    "<think>2 + 3 = 5</think> <answer>2 + 3</answer>",
    "<think>x</think><answer>5</answer>",
    "so so \\boxed{7} so so",
    "no",
)
ROWS: tuple[dict[str, Any], ...] = (
    {"answer": "2 + 3", "target": 5, "nums": [2, 3], "solution": "<answer>2 + 3</answer>", "kind": "math"},
    {"answer": "5", "target": 5, "nums": [5], "solution": "#### 5", "kind": "prose"},
    {"answer": "7", "target": 7, "nums": [7], "solution": "\\boxed{8}", "kind": "math"},
    {"answer": "1", "target": 1, "nums": [1], "solution": "nothing", "kind": "prose"},
)
QUESTIONS = tuple(f"Make {row['answer']}." for row in ROWS)


def rows(*, chat: bool) -> list[dict[str, Any]]:
    """Rows of a data set, prompts as chats or as strings."""
    prompts = [[{"role": "user", "content": text}] if chat else text for text in QUESTIONS]
    more = [{"metadata": {"level": level}} for level in range(1, 5)]
    return [{"prompt": p, **row, **extra} for p, row, extra in zip(prompts, ROWS, more, strict=True)]


class Published(NamedTuple):
    """A function of one of the files, and its values."""

    spec: str
    chat: bool
    values: tuple[float | None, ...]

    @property
    def path(self) -> str:
        file, _, name = self.spec.partition(":")
        return f"{FOLDER / file}.py:{name}"


PUBLISHED = (
    Published("xml_format:correctness", True, (2.0, 2.0, 0.0, 0.0)),
    Published("xml_format:xmlcount", True, (0.375, 0.375, 0.0, 0.0)),
    Published("xml_format:soft_format", True, (0.5, 0.5, 0.0, 0.0)),
    Published("accuracy:accuracy_reward", True, (1.0, 1.0, 0.0, None)),
    Published("countdown:equation_reward_func", False, (1.0, 1.0, 0.0, 0.0)),
    Published("cosine_length:cosine", False, (0.773527, 0.870438, 0.947539, -0.999507)),
    Published("repetition:repetition", True, (0.0, 0.0, -0.25, 0.0)),
    Published("judge:judge", True, (0.5, 1.0, 0.25, 0.5)),
    Published("overlong:soft_overlong", True, (-1.0, -1.0, -1.0, 0.0)),
    Published("curriculum:staged", False, (47.0, 34.0, 21.0, 2.0)),
    Published("tensors:similarity", False, (0.942809, 1.0, 1.0, 0.0)),
    Published("arrays:digits", True, (0.625, 0.125, 0.125, 0.0)),
    Published("series:words", False, (0.8, 0.1, 0.5, 0.1)),
    Published("generator:ends_well", True, (1.0, 1.0, 0.0, 0.0)),
    Published("scorer_object:tag_scorer", False, (0.25, 0.25, 0.0, 0.0)),
    Published("partials:think", True, (0.5, 0.5, 0.0, 0.0)),
    Published("decorated:boxed", False, (0.0, 0.0, 1.0, 0.0)),
    Published("code_pool:parallel_check", True, (1.0, 1.0, 1.0, 0.0)),
    Published("workdir:from_file", False, (1.0, 1.0, 1.0, -1.0)),
    Published("alarmed:timed", True, (1.0, 1.0, 1.0, 0.0)),
    Published("metadata:level", True, (1.0, 2.0, 3.0, 4.0)),
    Published("several_tasks:math_reward", False, (1.0, None, 1.0, None)),
    Published("several_tasks:prose_reward", False, (None, 0.68, None, 0.04)),
)
