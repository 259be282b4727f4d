"""The pages written from the code are those of today's code."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import get_type_hints

import pytest

from upslope.algo.codec import SLOTS
from upslope.algo.family import FAMILY
from upslope.train.settings import RunSettings

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_settings", DOCS / "make_settings.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["settings.md", "recipes.md"])
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
    assert '| `learn.decay` | `Literal["constant", "linear", "cosine"]`'.replace('"', "'") in page.replace('"', "'")
    # `sample` borrows the meanings of the distribution it makes.
    assert "| `sample.top_k` | `int` | `0` | Only the k most likely tokens; 0: all. |" in page


def test_every_recipe_and_slot_value_is_on_the_page(maker: ModuleType) -> None:
    page = maker.recipes_page()
    for name in (*FAMILY, *(kind for kinds in SLOTS.values() for kind in kinds)):
        assert f"\n| `{name}` |" in page
    assert (
        "| `rft` | `reinforce` | sample: `Attempts(group_size=8, keep=everything, refill=0.0, drop_truncated=False)` → "
        in page
    )
