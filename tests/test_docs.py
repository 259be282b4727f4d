"""The pages written from the code are those of today's code; what any page links to or tells to type is there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import get_type_hints

import pytest
import typer.main
from scripts import loaded
from typer.testing import CliRunner

from upslope.algo.codec import SLOTS
from upslope.algo.family import FAMILY
from upslope.algo.recipe import Recipe
from upslope.cli.commands import app
from upslope.config import load_pipeline, load_settings
from upslope.lab.pipeline.kinds import KINDS
from upslope.prove.catalogue import CLAIMS
from upslope.training.named import resolve_recipe
from upslope.training.settings import RunSettings

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *DOCS.rglob("*.md"))
    if "_build" not in path.relative_to(ROOT).parts
)
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"\b(?:make|upslope|python) [^`]+")


def words(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """A page without its code, blocks and spans alike: what stands there is no link and no heading."""
    return re.sub(r"`[^`\n]*`", lambda span: span[0].strip("`").replace("[", " "), FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """The anchors that GitHub and the site give a page's headings: lower case, no punctuation, hyphens for spaces."""
    heads = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}


def dead_links(page: str, text: str) -> list[str]:
    """The targets of a page's links that are neither of another site nor in this repository."""
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        inside = file.exists() and file.resolve().is_relative_to(ROOT)
        there = text if not path else file.read_text(encoding="utf-8") if inside and file.suffix == ".md" else ""
        if not inside or (anchor and anchor not in anchors(there)):
            dead.append(target)
    return dead


def commands(text: str) -> Iterator[str]:
    """What a page tells to type: a line of a block, or a span of code; without what follows a comment, pipe or arrow.

    One with ``...`` in it is a pattern, not a command."""
    lines = [line for language, block in FENCE.findall(text) if not language for line in block.splitlines()]
    lines += re.findall(r"^    (\S.*)$", FENCE.sub("", text), re.MULTILINE)
    lines = [line.removeprefix("$ ").rpartition("' | ")[2] for line in lines]
    lines = [re.sub(r"^([A-Z_]+=\S* )+", "", line) for line in lines]
    spans = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    for line in (*lines, *spans):
        typed = re.split(r"  +#| > ", line)[0].strip()
        if COMMAND.fullmatch(typed) and "..." not in typed:
            yield typed


def wrong(command: str) -> str | None:
    """What is not so about a command: a target, file, option, setting, recipe or claim that is not there."""
    program, *arguments = shlex.split(command)
    known: set[str]
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        known = set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))
        known |= {f"{name}=" for name in re.findall(r"^([A-Z_]+) \?=", makefile, re.MULTILINE)}
        return next((a for a in arguments if re.sub("=.*", "=", a) not in known), None)
    if program == "python":
        return None if arguments[0] == "-m" or (ROOT / arguments[0]).is_file() else arguments[0]
    group = typer.main.get_command(app)
    name, *rest = arguments
    if name not in group.commands:  # type: ignore[attr-defined]
        return name
    try:
        given = group.commands[name].make_context(name, rest).params  # type: ignore[attr-defined]
        if name == "diff":
            for recipe in {given["first"], given["second"]} - {"A", "B"}:
                resolve_recipe({"name": recipe})
        elif name == "prove":
            return next((c for c in given["only"] or () if c not in {claim.name for claim in CLAIMS}), None)
        elif name == "pipeline" and given["file"].name not in ("FILE.toml", "my.toml"):  # the reader's own
            load_pipeline(ROOT / given["file"], KINDS, given["overrides"] or ())
        elif name in ("train", "ladder"):
            typed = given.get("arguments") or given.get("overrides") or []
            files = [ROOT / a for a in typed if a.startswith("examples/")]
            pairs = [a for a in typed if "=" in a]
            pairs += [f"task.name={given['task']}"] if given.get("task") else []
            resolve_recipe(load_settings(files[0] if files else None, pairs).recipe)
    except Exception as error:
        return str(getattr(error, "message", error))
    return None


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    assert dead_links(page, words(page)) == []


@pytest.mark.parametrize(
    "target", ["nowhere.md", "#nowhere", "speed.md#nowhere", "../upslope/nowhere.py", "../../x.md"]
)
def test_dead_links_are_seen(target: str) -> None:
    assert dead_links("docs/results.md", f"# Results\n\nSee [there]({target}).\n") == [target]


@pytest.mark.parametrize("target", ["#main-job", "speed.md", "speed.md#the-main-job", "../Makefile", "https://a.b/c"])
def test_living_links_are_left_alone(target: str) -> None:
    assert dead_links("docs/results.md", f"# Main job\n\nSee [there]({target}).\n") == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page: str) -> None:
    assert [(c, what) for c in commands(words(page)) if (what := wrong(c))] == []


def test_commands_are_found_in_blocks_and_spans() -> None:
    page = "```\n$ make test  # all\nA=b make x\n```\n\n    upslope prove > out\n\nSay `python a.py` or `make`.\n"
    assert list(commands(page)) == ["make test", "make x", "upslope prove", "python a.py"]
    assert sum(1 for _ in commands(words("README.md"))) >= 15


@pytest.mark.parametrize(
    "command",
    [
        *("make tset", "make test TSETS=x", "python examples/nowhere.py", "upslope trian", "upslope train --stpes 3"),
        *("upslope train examples/nowhere.toml", "upslope train learn.rl=1", "upslope train recipe=grop"),
        *("upslope pipeline examples/nowhere.toml", "upslope pipeline examples/pocket.toml sfft.steps=3"),
        *("upslope train recipe=grpo recipe.surrogate.hihg=1", "upslope diff ppo grop", "upslope prove --only kl"),
    ],
)
def test_commands_that_are_wrong_are_seen(command: str) -> None:
    assert wrong(command)


def test_blocks_of_toml_are_settings(tmp_path: Path) -> None:
    found = [block for page in PAGES for language, block in FENCE.findall(words(page)) if language == "toml"]
    assert found
    for block in found:
        file = tmp_path / "run.toml"
        file.write_text(block, encoding="utf-8")
        if "[[stage]]" in block:
            load_pipeline(file, KINDS)
        else:
            resolve_recipe(load_settings(file).recipe)


def test_blocks_of_python_about_recipes_run() -> None:
    blocks = [block for language, block in FENCE.findall(words("docs/extending.md")) if language == "python"]
    scopes: list[dict[str, object]] = [{} for _ in blocks]
    for block, scope in zip(blocks, scopes, strict=True):
        exec(compile(block, "docs/extending.md", "exec"), scope)
    assert any(isinstance(scope.get("MINE"), Recipe) for scope in scopes)


@pytest.mark.parametrize("command", ["recipes", "diff ppo grpo"])
def test_readme_shows_what_the_command_prints(command: str) -> None:
    shown = next(b for _, b in FENCE.findall(words("README.md")) if b.startswith(f"$ upslope {command}\n"))
    printed = CliRunner().invoke(app, command.split()).stdout
    assert [line.rstrip() for line in shown.splitlines()[1:]] == [line.rstrip() for line in printed.splitlines()]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """As `make docs` builds it, so that both ends of the ranges of its tools are tried with all others."""
    pytest.importorskip("sphinx", reason="the extra `docs` is not installed")
    options = ["-q", "-E", "-W", "-n", "--keep-going", "-b", "html"]
    build = [sys.executable, "-m", "sphinx", *options, str(DOCS), str(tmp_path / "html")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "def train(run: Turns)" in re.sub("<[^>]+>", "", (tmp_path / "html/api/loop.html").read_text("utf-8"))


def test_every_slot_has_its_section_in_the_reference() -> None:
    page = words("docs/api/slots.md")
    for slot in (field.name for field in fields(Recipe)):
        assert f"## {slot}\n\n```{{eval-rst}}\n.. automodule:: upslope.algo.{slot}\n```" in page


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    return loaded(DOCS / "make_settings.py")


@pytest.mark.parametrize("name", ["settings.md", "recipes.md", "../upslope/inspect/reading/family.json"])
def test_the_page_is_current(maker: ModuleType, name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == maker.PAGES[name](), "run `make docs`"


def test_every_setting_is_on_the_page(maker: ModuleType) -> None:
    found = set(re.findall(r"^\| `([\w.]+)` ", maker.settings_page(), re.MULTILINE))
    hints = get_type_hints(RunSettings)
    expected = {f.name for f in fields(RunSettings) if not is_dataclass(hints[f.name])}
    for name, kind in hints.items():
        if is_dataclass(kind):
            expected |= {f"{name}.{f.name}" for f in fields(kind)}
    assert found == expected


def test_defaults_and_meanings_are_on_the_page(maker: ModuleType) -> None:
    page = maker.settings_page()
    assert "| `problems` | `int` | `64` | P: problems (or demonstrations, documents) a step. |" in page
    assert '| `learn.decay` | `Literal["constant", "linear", "cosine", "wsd"]`'.replace('"', "'") in page.replace(
        '"', "'"
    )
    # `sample` borrows the meanings of the distribution it makes.
    assert "| `sample.top_k` | `int` | `0` | Only the k most likely tokens; 0: all. |" in page


def test_every_recipe_and_slot_value_is_on_the_page(maker: ModuleType) -> None:
    page = maker.recipes_page()
    assert all(any(maker.is_own(value) for value in kinds.values()) for kinds in SLOTS.values())
    for name in (*FAMILY, *(kind for kinds in SLOTS.values() for kind, value in kinds.items() if maker.is_own(value))):
        assert f"\n| `{name}` |" in page
    assert (
        "| `rft` | `reinforce` | sample: `Attempts(group_size=8, keep=everything, refill=0.0, drop_truncated=False)` → "
        in page
    )
