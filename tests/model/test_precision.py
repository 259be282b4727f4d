"""What counts as rounding when two ways of computing the same thing are compared."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import policy, random_groups

from upslope.model.attention import planned
from upslope.model.layout import lay_out
from upslope.model.precision import agree

NUMBERS = torch.randn(64, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NOISE = torch.randn(64, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def with_one_off(by):
    return NUMBERS + by * torch.nn.functional.one_hot(torch.tensor(7), 40) * (torch.arange(64) == 5)[:, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_in_float32_no_entry_may_be_off_by_a_thousandth_of_the_spread(dtype):
    """The spread of these numbers is 1, and where they lie does not matter."""
    for offset in (0.0, 100.0):
        expected = (NUMBERS + offset).to(dtype)
        assert agree(expected, expected)
        assert agree((with_one_off(0.0009) + offset).to(dtype), expected)
        assert not agree((with_one_off(0.0012) + offset).to(dtype), expected)


def test_in_bfloat16_all_entries_together_count():
    expected = NUMBERS.bfloat16()
    assert agree((NUMBERS + 0.06 * NOISE).bfloat16(), expected)
    assert agree(with_one_off(0.4).bfloat16(), expected)
    assert not agree((NUMBERS + 0.25 * NOISE).bfloat16(), expected)
    assert not agree(torch.zeros_like(expected), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_no_number_or_has_another_shape_never_agrees(dtype):
    expected = NUMBERS.to(dtype)
    broken = expected.clone()
    broken[3, 3] = torch.nan
    assert not agree(broken, expected)
    assert not agree(expected[:-1], expected)


def test_a_wrong_mask_is_more_than_rounding_in_bfloat16_too():
    """Attempts that share a prompt miss its first token: what ``admit`` must see."""
    subject = policy(dtype=torch.bfloat16)
    rollouts = [r for g in random_groups(2, size=3) for r in g.rollouts]
    layout = lay_out(rollouts, subject.device)
    stems, branches = layout.segments
    visible = branches.visible_B1LS.clone()
    visible[:, :, :, 0] = False
    blind = replace(layout)
    blind.__dict__["segments"] = (stems, replace(branches, visible_B1LS=visible))
    found = []
    for seen in (layout, layout, blind):
        with torch.no_grad(), planned(seen):
            found.append(subject.model(**seen.call()).logits[0])
    assert agree(found[1], found[0])
    assert not agree(found[2], found[0])
