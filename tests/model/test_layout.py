"""Where tokens lie: prompts alone, by hand and beside rollouts of which nothing is scored."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from upslope.model.layout import Layout, Tokens, lay_out, lay_out_prompts

CPU = torch.device("cpu")


def listed(layout: Layout) -> dict[str, object]:
    values = {f.name: getattr(layout, f.name) for f in fields(layout)}
    return {name: v.tolist() if isinstance(v, torch.Tensor) else v for name, v in values.items()}


def test_prompts_lie_end_to_end_each_by_itself_and_nothing_is_scored() -> None:
    assert listed(lay_out_prompts([(7, 8, 9), (7, 8, 9), (4,)], CPU)) == {
        "id_K": [7, 8, 9, 7, 8, 9, 4],
        "position_K": [0, 1, 2, 0, 1, 2, 0],
        **{name: [] for name in ("predictor_R", "target_R", "row_R", "column_R")},
        "stems": ((0, 3), (3, 3), (6, 1)),
        "branches": (),
        "children": ((0, 0), (0, 0), (0, 0)),
    }


@pytest.mark.parametrize("prompts", [[(5,)], [(3, 4), (3, 4), (9, 8, 7, 6)]])
def test_a_prompt_is_laid_out_as_one_with_a_response_that_nobody_scores(prompts: list[tuple[int, ...]]) -> None:
    """The last token of a response is left out of a layout."""
    rows = [Tokens(prompt, response=(0,), mask=(False,)) for prompt in prompts]
    alone, beside = lay_out_prompts(prompts, CPU), lay_out(rows, CPU, share_prompts=False)
    assert listed(alone) == listed(beside)
    assert alone.place_K.tolist() == beside.place_K.tolist()
    assert [s.query_BL.tolist() for s in alone.segments] == [s.query_BL.tolist() for s in beside.segments]
