"""docs/derivation.md: its code runs and prints what it says, its links lead somewhere, its claims exist."""

from __future__ import annotations

import ast
import contextlib
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from upslope.algo.family import FAMILY
from upslope.prove.catalogue import CLAIMS
from upslope.prove.claim import judged

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "derivation.md").read_text(encoding="utf-8")


BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)


def test_every_code_block_runs_and_prints_what_its_comments_say() -> None:
    assert len(BLOCKS) > 10
    assert check(BLOCKS) > 20


def check(blocks: Sequence[str]) -> int:
    """Run the blocks one after the other, each print beside its comment; how many were compared.

    A comment behind a print says what is printed up to its first colon, and behind an equals sign where there is one:
    the first numbers, in their order, or, where it holds none, all the words. A comment line of its own is the next
    line printed, unless it ends in a colon.
    """
    scope: dict[str, object] = {}
    num_compared = 0
    try:
        for block in blocks:
            whole, lines = [], block.splitlines()
            for node in ast.parse(block).body:
                said = io.StringIO()
                with contextlib.redirect_stdout(said):
                    exec(compile(ast.Module([node], []), "docs/derivation.md", "exec"), scope)
                whole += said.getvalue().splitlines()
                code, mark, comment = lines[(node.end_lineno or 1) - 1].partition("  # ")
                if mark and "print(" in code:
                    require(comment.partition(":")[0].rpartition(" = ")[2], said.getvalue())
                    num_compared += 1
            quoted = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
            assert not quoted or quoted == whole, f"the page says {quoted}, and printed is {whole}"
            num_compared += len(quoted)
    finally:
        torch.set_default_dtype(torch.float32)
    return num_compared


def require(told: str, printed: str) -> None:
    """Raise AssertionError unless what was printed is what was told."""
    if numbers(told):
        assert numbers(printed)[: len(numbers(told))] == numbers(told), f"told {told!r}, printed {printed!r}"
    else:
        assert words(told), f"the comment {told!r} says nothing that could be printed"
        assert words(printed) == words(told), f"told {told!r}, printed {printed!r}"


def words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z_]\w*", text.replace("dict_keys", ""))


def numbers(text: str) -> list[float]:
    """The numbers in a text, to four digits; fractions are worked out."""
    found = re.findall(r"(?<![\w.])-?\d+(?:\.\d*)?(?:/\d+)?(?![\w])", text)
    parts = [[*f.split("/"), "1"][:2] for f in found]
    return [round(float(above) / float(below), 4) for above, below in parts]


@pytest.mark.parametrize(
    "block",
    [
        "print([1, 2])  # [2, 1]",
        "print([0.5, 0.25])  # [0.5, 0.26]: nearly",
        "print([1])  # [1, 2]",
        "print({'sample': 1}.keys())  # sample, shape",
        "print({'sample': 1, 'shape': 1}.keys())  # sample",
        "print(0.97)  # 1.2 * 0.8 = 0.96, counted once",
        "for x in (1, 2):\n    print(x)  # 1, 3",
        "print('no numbers')  # : nothing said",
        "print(1, 2)\n# 1 3",
        "print(1)\nprint(2)\n# 2",
    ],
)
def test_a_comment_that_is_not_what_is_printed_is_seen(block: str) -> None:
    with pytest.raises(AssertionError):
        check([block])


@pytest.mark.parametrize(("right", "wrong"), [("[0.75, -0.25", "[0.25, -0.75"), ("# sample, adv", "# shape, adv")])
def test_a_defect_planted_in_the_page_is_seen(right: str, wrong: str) -> None:
    planted = [block.replace(right, wrong) for block in BLOCKS]
    assert planted != BLOCKS
    with pytest.raises(AssertionError):
        check(planted)


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
    ("stale-versions", "two updates old, no weights: off grad J by", "off by 2.28 of its length"),
    ("stale-versions", "cap 1: off grad J by", "off by 0.245"),
    ("stale-versions", "cap 1.5: off grad J by", "by 0.080, of 2"),
    ("stale-versions", "cap 2: off grad J by", "by 0.025, of 3"),
    ("stale-versions", "cap 3: off grad J by", "by 0.00004"),
    ("stale-versions", "weights of single tokens, no cap: off grad J by", "stay off by 0.12"),
    ("stale-versions", "late attempts dropped: off grad J by", "remains is off by 1.38"),
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


SPELT = {"dr-grpo": "Dr. GRPO", "reinforce-baseline": "## 2. A baseline"}
"""Recipes that the page calls otherwise."""


def unnamed(page: str) -> list[str]:
    """The recipes up to DAPO that a page does not name. Plain text has no reward: imitating it is not derived."""
    names = list(FAMILY)[: list(FAMILY).index("dapo") + 1]
    spelt = {n: SPELT.get(n, n) for n in names if FAMILY[n].recipe.sample.source != "documents"}
    return [n for n, word in spelt.items() if not re.search(whole(word), page, re.I)]


def whole(word: str) -> str:
    return rf"(?<![\w-]){re.escape(word)}(?![\w-])"


def test_every_recipe_up_to_dapo_is_named() -> None:
    assert unnamed(PAGE) == []


@pytest.mark.parametrize("name", ["sft", "reinforce-baseline", "reinforce++", "dr-grpo", "dapo"])
def test_a_recipe_that_is_left_out_is_seen(name: str) -> None:
    assert unnamed(re.sub(whole(SPELT.get(name, name)), "...", PAGE, flags=re.I)) == [name]
