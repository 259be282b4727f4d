"""docs/derivation.md: its code runs and prints what it says, its links lead somewhere, its claims exist."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import torch

from upslope.algo.family import FAMILY
from upslope.prove.catalogue import CLAIMS

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "derivation.md").read_text(encoding="utf-8")


def test_every_code_block_runs_and_prints_what_its_comments_say() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    assert len(blocks) > 10
    scope: dict[str, object] = {}
    try:
        for block in blocks:
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                exec(compile(block, "docs/derivation.md", "exec"), scope)
            for line in re.findall(r"^# (.*)$", block, flags=re.M):  # comment lines of their own quote the output
                assert line in said.getvalue().splitlines()
            for comment in re.findall(r"print\(.*\)  # (.*)$", block, flags=re.M):
                assert numbers(comment.partition(":")[0]) <= numbers(said.getvalue())
    finally:
        torch.set_default_dtype(torch.float32)


def numbers(text: str) -> set[float]:
    """The numbers in a text, to four digits; fractions are worked out."""
    found = re.findall(r"(?<![\w.])-?\d+(?:\.\d*)?(?:/\d+)?(?![\w])", text)
    parts = [[*f.split("/"), "1"][:2] for f in found]
    return {round(float(above) / float(below), 4) for above, below in parts}


def test_every_link_leads_to_a_file() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (DOCS / target).is_file(), target
    for name, target in re.findall(r"\[`(\w+)`\]\((\.\./upslope/[^)]+)\)", PAGE):
        assert re.search(rf"\b(def|class) {name}\b", (DOCS / target).read_text()), name


def test_every_claim_is_named_and_exists() -> None:
    named = set(re.findall(r"[Cc]laims?\s+`([\w-]+)`", PAGE))
    assert named == {claim.name for claim in CLAIMS}


def test_every_recipe_is_mentioned() -> None:
    text = PAGE.lower().replace("dr. grpo", "dr-grpo").replace("supervised", "sft pretrain")
    assert all(name.replace("reinforce-baseline", "baseline") in text for name in FAMILY)
