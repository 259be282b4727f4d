"""docs/derivation.md: its code runs and prints what it says, its links lead somewhere, its claims exist."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

from upslope.algo.family import FAMILY
from upslope.prove.catalogue import CLAIMS
from upslope.prove.claim import judged

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


QUOTED = [
    ("naive-reuse", "drift 1.5, unweighed: degrees off grad J", "4.1 degrees off"),
    ("naive-reuse", "drift 1.5, token ratio: degrees off grad J", "ratio's 10.3"),
    ("naive-reuse", "drift 1.5, unweighed: length over |grad J|", "4 times too long"),
    ("stale-sampler", "drift 0.3, nothing: off grad J by", "by 0.71 of its length"),
    ("stale-sampler", "drift 0.3, token weights: off grad J by", "token weights by 0.30"),
    ("exact-critic", "variance without a critic", "11.89 without a critic"),
    ("exact-critic", "lambda 0.0: variance", "5.22 at lambda 0"),
    ("exact-critic", "lambda 0.95: variance", "4.01 at 0.95"),
    ("exact-critic", "lambda 1.0: variance", "4.04 at 1 "),
    ("z-score-multiple", "p = 0.02, G = 16: c_G(p)", "3.49 at p = 0.02"),
    ("z-score-multiple", "p = 0.5, G = 16: c_G(p)", "1.87 at p = 0.5"),
    ("z-score-multiple", "p = 0.1, G = 2: c_G(p)", "0.707 for every p"),
    ("kl-ball", "cat and dog, there: KL", "0.0201 nats"),
    ("kl-ball", "cat and dog, back: KL", "back it is 0.0204"),
    ("performance-difference", "from drift 0.02 to its half the gap of L falls by", "gap by 4.0"),
]
"""(claim, fact, the page's words for it): the first number of the words is the fact, to as many digits."""


@pytest.mark.parametrize("name", sorted({name for name, _, _ in QUOTED}))
def test_numbers_of_claims_are_what_the_claims_measure(name: str) -> None:
    text = " ".join(PAGE.split())
    facts = {fact.label: fact.value for fact in judged(next(c for c in CLAIMS if c.name == name)).facts}
    for _, label, words in (quoted for quoted in QUOTED if quoted[0] == name):
        assert words in text
        number = re.search(r"\d+(?:\.(\d+))?", words)
        assert number and f"{facts[label]:.{len(number[1] or '')}f}" == number[0], label


def test_every_claim_is_named_and_exists() -> None:
    named = set(re.findall(r"[Cc]laims?\s+`([\w-]+)`", PAGE))
    assert named == {claim.name for claim in CLAIMS}


def test_every_recipe_is_mentioned() -> None:
    text = PAGE.lower().replace("dr. grpo", "dr-grpo").replace("supervised", "sft pretrain")
    assert all(name.replace("reinforce-baseline", "baseline") in text for name in FAMILY)
