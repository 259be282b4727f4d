"""A report in one file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from made_runs import made_run

from upslope.errors import UserError
from upslope.inspect.look.mailed import STATIC, answers_of, bundled, page_of, write_page


def inside(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="answers">(.*?)</script>', page, re.DOTALL)
    assert found
    told: dict[str, Any] = json.loads(found[1])
    return told


def asked(question: str, **query: str) -> str:
    return json.dumps([question, *query.items()])


def test_it_holds_the_answers_that_the_page_asks_for(tmp_path: Path) -> None:
    run = made_run(tmp_path / "one", 5)
    told = inside(write_page(run).read_text())
    assert told[asked("run", run="one")]["steps"] == 5
    assert {json.loads(key)[0] for key in told} == {"runs", "run", "curves", "step", "attempt"}
    assert (
        asked("step", run="one", kind="step", step="4") in told
        and asked("step", run="one", kind="eval", step="5") in told
    )
    assert len(told[asked("attempt", run="one", kind="step", step="4", place="3")]["attempt"]["push"]) == 12
    assert told[asked("curves", run="one", axis="tokens")]["curves"]["reward"]["y"][0] is not None


def test_nothing_in_it_leads_elsewhere_and_no_text_ends_its_element(tmp_path: Path) -> None:
    words = "</script><script>alert(1)</script><!--"
    page = page_of(made_run(tmp_path / "a & b", 2, words=words, prompt_text=words))
    assert page.count("</script>") == 3
    assert "<title>a &amp; b</title>" in page
    assert "default-src 'none'" in page
    assert not re.search(r'(src|href)="(?!data:)', page.partition("<script")[0])
    assert any(words in str(answer) for answer in inside(page).values())


def test_every_module_stands_before_those_that_need_it() -> None:
    told = bundled()
    names = [path.relative_to(STATIC).as_posix() for path in STATIC.glob("*.js")] + ["vendor/htm-preact.js"]
    place = {name: told.index(f'modules["{name}"] = (() => {{') for name in names}
    for name in names[:-1]:
        needed = re.findall(r'from "\./([^"]+)"', (STATIC / name).read_text())
        assert all(place[other] < place[name] for other in needed)
    assert not re.search(r"^(import|export) ", told, re.MULTILINE)
    assert told.count("] = (() => {") == len(names)


def test_a_run_that_is_broken_in_part_is_reported_as_far_as_it_goes(tmp_path: Path) -> None:
    run = made_run(tmp_path / "one", 5)
    (run / "rollouts" / "step-000004.parquet").write_bytes(b"none")
    told = answers_of(run)
    assert asked("step", run="one", kind="step", step="0") in told
    assert asked("step", run="one", kind="step", step="4") not in told


def test_what_is_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run in it"):
        page_of(tmp_path)
