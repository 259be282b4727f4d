"""Blocks and turns by number, against streams laid end to end."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from upslope.errors import UserError
from upslope.rollout.address import Address
from upslope.text.order import Blocks, Mixture


def permutation(num: int, seed: int = 0):
    return lambda epoch: Address(seed, "documents", epoch).permutation(num)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 20), st.integers(0, 5))
def test_blocks_are_the_documents_of_each_epoch_end_to_end(lengths: list[int], block: int, seed: int) -> None:
    block = min(block, sum(lengths))
    order = permutation(len(lengths), seed)
    blocks = Blocks(np.array(lengths), block, order)
    stream = [(d, t) for epoch in range(4) for d in order(epoch) for t in range(lengths[d])]
    numbers = list(range(len(stream) // block))
    Random(seed).shuffle(numbers)  # each is found without those before it
    for number in numbers:
        pieces = blocks.pieces(number)
        tokens = [(d, t) for d, start, stop in pieces for t in range(start, stop)]
        assert tokens == stream[number * block : (number + 1) * block]
        assert all(start < stop for _, start, stop in pieces)


def test_an_epoch_holds_every_token_of_its_documents_once() -> None:
    length_D = np.array([5, 1, 7, 3])
    blocks = Blocks(length_D, 4, permutation(2), documents=np.array([0, 2]))
    assert blocks.num_tokens == 12
    pieces = [piece for number in range(3) for piece in blocks.pieces(number)]
    assert sorted((p.document, t) for p in pieces for t in range(p.start, p.stop)) == [
        (d, t) for d in (0, 2) for t in range(length_D[d])
    ]


def test_each_epoch_has_an_order_of_its_own_that_is_made_once() -> None:
    made = []
    order = permutation(100)
    blocks = Blocks(np.full(100, 10), 10, lambda epoch: made.append(epoch) or order(epoch))
    orders = [[blocks.pieces(100 * epoch + n)[0].document for n in range(100)] for epoch in range(2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(100))
    assert orders[0] != orders[1]
    assert made == [0, 1]


def test_text_of_less_than_a_block_is_refused() -> None:
    with pytest.raises(UserError, match="the text has 3 tokens, fewer than one block of 4; give more text"):
        Blocks(np.array([1, 2]), 4, permutation(2))
    with pytest.raises(ValueError, match="an order of 3 for 2 documents"):
        Blocks(np.array([1, 3]), 4, permutation(3)).pieces(0)


@settings(max_examples=60)
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6), st.integers(0, 10**15))
def test_every_source_has_its_share_after_any_number_of_turns(weights: list[float], far: int) -> None:
    mixture = Mixture(weights)
    counts = [0] * len(weights)
    for number in range(200):
        source, own = mixture.turn(number)
        assert own == counts[source]  # its own turns come one after the other
        counts[source] += 1
        for count, weight in zip(counts, weights, strict=True):
            assert abs(count - (number + 1) * weight / sum(weights)) < len(weights) / 2 + 0.51
    source, own = mixture.turn(far)
    assert abs(own - far * weights[source] / sum(weights)) < len(weights) / 2 + 1.01


def test_turns_far_along_follow_from_their_number_alone() -> None:
    mixture = Mixture([1, 1e-9, 3])
    near = 10**17  # where a product in floating point is off by several turns
    turns = [mixture.turn(near + n) for n in range(1000)]
    for source in (0, 2):
        own = [place for who, place in turns if who == source]
        assert [b - a for a, b in pairwise(own)] == [1] * (len(own) - 1)
    assert [sum(who == source for who, _ in turns) for source in (0, 2)] == pytest.approx([250, 750], abs=2)


def test_a_lone_source_has_every_turn() -> None:
    assert [Mixture([0.3]).turn(n) for n in range(4)] == [(0, 0), (0, 1), (0, 2), (0, 3)]


@pytest.mark.parametrize("weights", [[], [1, 0], [1, -1], [1, float("nan")], [float("inf"), 1]])
def test_weights_that_are_no_shares_are_refused(weights: list[float]) -> None:
    with pytest.raises(UserError, match="weight"):
        Mixture(weights)


def test_equal_weights_take_turns() -> None:
    assert [Mixture([1, 1]).turn(n) for n in range(6)] == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]
