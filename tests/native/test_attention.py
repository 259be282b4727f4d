"""Attention over packed segments and over a decoder's table, beside scaled_dot_product_attention with a plain mask."""

import pytest
import torch
from exact import assert_rounded, each_dtype, gap, on_threads, random
from spans import LAYOUTS, laid_out
from torch.nn.functional import scaled_dot_product_attention

from upslope.native import kernels
from upslope.native.heads import Heads
from upslope.native.spans import Spans
from upslope.native.table import LANES, PANEL, PanelPrompt, PanelTable, padded, paneled

HEADS = [(4, 4, 8), (3, 3, 24), (4, 2, 16), (3, 1, 64), (7, 1, 80), (8, 1, 64), (14, 2, 8), (4, 2, 128)]
"""(query heads, key heads, depth): 1, 2, 3, 7 and 8 heads that share keys."""


def plain(qkv, heads, scale, mask):
    """[K, H D] from [K, (H + 2 J) D]."""
    num_heads, num_key_heads, depth = heads
    query, key, value = (
        x.view(len(qkv), -1, depth).transpose(0, 1)
        for x in qkv.split([num_heads * depth, num_key_heads * depth, num_key_heads * depth], dim=1)
    )
    key, value = (x.repeat_interleave(num_heads // num_key_heads, dim=0) for x in (key, value))
    out = scaled_dot_product_attention(query[None], key[None], value[None], attn_mask=mask, scale=scale)
    return out[0].transpose(0, 1).flatten(1)


def compare(layout, heads, dtype, spread=1.0):
    spans, mask = laid_out(layout)
    num_heads, num_key_heads, depth = heads
    qkv = random(len(mask), (num_heads + 2 * num_key_heads) * depth, dtype=dtype, scale=spread)
    dout = random(len(mask), num_heads * depth, seed=1, dtype=dtype)
    scale = depth**-0.5
    exact = qkv.double().requires_grad_()
    truth = plain(exact, heads, scale, mask)
    (slope,) = torch.autograd.grad(truth, exact, dout.double())
    out, peak = on_threads(lambda: kernels.attend(qkv, spans, num_heads, num_key_heads, scale))
    dqkv = on_threads(lambda: kernels.attend_backward(qkv, out, dout, peak, spans, num_heads, num_key_heads, scale))
    return out, truth.detach(), dqkv, slope


@each_dtype
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("heads", [(4, 2, 16), (3, 1, 24)])
def test_attend_every_layout(name, heads, dtype):
    """One rounding at the end. In the backward pass the forward's rounded output is read again, so there are two."""
    out, truth, dqkv, slope = compare(LAYOUTS[name], heads, dtype)
    assert_rounded(out, truth, 1)
    assert_rounded(dqkv, slope, 2)


@each_dtype
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_attend_every_shape_of_heads(heads, dtype):
    out, truth, dqkv, slope = compare([(20, [3, 18]), (7, [])], heads, dtype)
    assert_rounded(out, truth, 1)
    assert_rounded(dqkv, slope, 2)


def test_attend_when_scores_are_large():
    """Scores of some 100, whose last place is 8e-6, make almost every softmax a choice. torch's float32 attention is
    then off by 1.2e-5 forward and backward; ours must be as good to a factor of 1.5."""
    heads, layout, spread = (4, 2, 64), LAYOUTS["both"], 6.0
    out, truth, dqkv, slope = compare(layout, heads, torch.float32, spread)
    _, mask = laid_out(layout)
    rough = random(len(mask), 8 * 64, scale=spread).requires_grad_()
    rough_out = plain(rough, heads, 64**-0.5, mask)
    (rough_slope,) = torch.autograd.grad(rough_out, rough, random(len(mask), 4 * 64, seed=1))
    assert gap(out, truth) <= 1.5 * gap(rough_out.detach(), truth)
    assert gap(dqkv, slope) <= 1.5 * gap(rough_slope, slope)


def test_no_tokens_are_no_error():
    spans = Spans([], [])
    qkv = torch.empty(0, 32)
    out, peak = kernels.attend(qkv, spans, 2, 1, 1.0)
    assert out.shape == (0, 16) and kernels.attend_backward(qkv, out, out, peak, spans, 2, 1, 1.0).shape == (0, 32)


@pytest.mark.parametrize(
    ("segments", "children"),
    [
        ([(0, 3, 0, 0), (4, 2, 0, 0)], [(2, 0), (2, 0)]),  # a hole
        ([(0, 3, 0, 0), (2, 2, 0, 0)], [(2, 0), (2, 0)]),  # a token twice
        ([(0, 3, 0, 0), (3, 2, 0, 4)], [(1, 1)]),  # sees more than its stem
        ([(0, 3, 0, 0), (3, 2, 0, 3)], [(1, 0)]),  # a branch of nobody
        ([(0, 3, 0, 0), (3, 2, 0, 3)], [(1, 1), (2, 0)]),  # a stem too many
        ([(0, 3, 0, 0), (3, 2, 0, 3)], [(1, 2)]),  # a branch too many
    ],
)
def test_segments_that_would_reach_elsewhere_are_refused(segments, children):
    with pytest.raises((ValueError, IndexError)):
        Spans(segments, children)


def test_what_would_write_elsewhere_is_refused():
    spans, _ = laid_out([(3, [2, 2])])
    qkv, out, peak = torch.ones(7, 32), torch.ones(7, 16), torch.ones(7, 2, 2)
    wrong = [
        lambda: kernels.attend(qkv[:6], spans, 2, 1, 1.0),
        lambda: kernels.attend(qkv.double(), spans, 2, 1, 1.0),
        lambda: kernels.attend(torch.ones(32, 7).t(), spans, 2, 1, 1.0),
        lambda: kernels.attend(qkv, spans, 3, 1, 1.0),
        lambda: kernels.attend(torch.ones(7, 42), spans, 3, 2, 1.0),
        lambda: kernels.attend_backward(qkv, out[:6], out, peak, spans, 2, 1, 1.0),
        lambda: kernels.attend_backward(qkv, out, out[:, :8], peak, spans, 2, 1, 1.0),
        lambda: kernels.attend_backward(qkv, out, out, peak[:6], spans, 2, 1, 1.0),
        lambda: kernels.attend_backward(qkv, out, out, peak.double(), spans, 2, 1, 1.0),
        lambda: kernels.attend_backward(qkv, out.bfloat16(), out, peak, spans, 2, 1, 1.0),
    ]
    for call in wrong:
        with pytest.raises((ValueError, KeyError)):
            call()


PROMPTS = (0, 1, 15, 16, 63, 64, 65, 130)
NUM_LAYERS = 2


class Decoding:
    """A table and, beside it, everything its rows have seen as plain lists."""

    def __init__(self, prompt_of_row, heads, dtype, room):
        self.heads, self.dtype, self.room = heads, dtype, room
        self.num_heads, self.num_key_heads, self.depth = heads
        made = {length: self._prompt(length) for length in dict.fromkeys(prompt_of_row)}
        num, size = len(prompt_of_row), padded(self.depth)

        def unset(length):  # whatever is read before it is written makes NaN of the result
            size_of_all = num * self.num_key_heads * size * length
            return [torch.full((size_of_all,), torch.nan, dtype=dtype) for _ in range(NUM_LAYERS)]

        self.table = PanelTable(
            Heads(*heads, self.depth**-0.5), unset(paneled(room)), unset(LANES), unset(paneled(room)), room,
            torch.arange(num), torch.zeros(num, dtype=torch.long),
        )  # fmt: skip
        self.rows = [made[length][0] for length in prompt_of_row]
        self.seen = [[list(made[length][1][layer]) for layer in range(NUM_LAYERS)] for length in prompt_of_row]
        self.table.assign(self.rows)

    def _prompt(self, length):
        """(as the kernel wants it, [layer][token] (key, value), each [J, D])."""
        num, size, width = self.num_key_heads, padded(self.depth), paneled(length)
        shape = (NUM_LAYERS, length, 2, num, self.depth)
        tokens = random(*shape, seed=length, dtype=self.dtype)
        keys = torch.full((NUM_LAYERS, num, width // PANEL, size, PANEL), torch.nan, dtype=self.dtype)
        values = torch.full((NUM_LAYERS, num, width, size), torch.nan, dtype=self.dtype)
        for t in range(length):
            keys[:, :, t // PANEL, : self.depth, t % PANEL] = tokens[:, t, 0]
            values[:, :, t, : self.depth] = tokens[:, t, 1]
        rows = [[tuple(tokens[layer, t]) for t in range(length)] for layer in range(2)]
        return PanelPrompt(length, keys, values), rows

    def step(self, qkv_LNX, angle_NF, only=None):
        """Kernel's and plain results, [layers][N, H D]; the rows must be the table's."""
        cosine, sine = angle_NF.cos(), angle_NF.sin()
        outs = [self.table.attend(layer, qkv.clone(), cosine, sine) for layer, qkv in enumerate(qkv_LNX)]
        truths = []
        for layer, qkv in enumerate(qkv_LNX):
            turned = qkv.clone()
            kernels.rotary_(turned, cosine, sine, self.num_heads + self.num_key_heads)
            sizes = [self.num_heads * self.depth] + 2 * [self.num_key_heads * self.depth]
            truth = []
            for row, (query, key, value) in enumerate(zip(*turned.split(sizes, dim=1), strict=True)):
                mine = self.seen[row][layer]
                mine.append((key.view(-1, self.depth), value.view(-1, self.depth)))
                keys, values = (torch.stack(x).double() for x in zip(*mine, strict=True))
                query_HD = query.double().view(self.num_heads, self.depth)
                repeats = self.num_heads // self.num_key_heads
                score = torch.einsum("hd,thd->ht", query_HD, keys.repeat_interleave(repeats, 1)) * self.depth**-0.5
                mixed = torch.einsum("ht,thd->hd", score.softmax(1), values.repeat_interleave(repeats, 1))
                truth.append(mixed.flatten())
            truths.append(torch.stack(truth))
        self.table.written_N += 1
        return outs, truths

    def keep(self, rows):
        index = torch.tensor(rows)
        self.table.keep(index)
        self.rows, self.seen = [self.rows[r] for r in rows], [self.seen[r] for r in rows]
        self.table.assign(self.rows)


def inputs(decoding, step, num_rows):
    width = (decoding.num_heads + 2 * decoding.num_key_heads) * decoding.depth
    qkv = random(NUM_LAYERS, num_rows, width, seed=1000 + step, dtype=decoding.dtype)
    return qkv, 10 * random(num_rows, decoding.depth // 2, seed=2000 + step)


@each_dtype
@pytest.mark.parametrize("heads", [(4, 2, 16), (3, 1, 24)])
def test_decode_from_prompts_of_every_length(heads, dtype):
    """70 tokens, so that tails are closed four times and a second panel begins. One rounding."""
    decoding = Decoding(PROMPTS, heads, dtype, 70)
    for step in range(70):
        for out, truth in zip(*decoding.step(*inputs(decoding, step, len(PROMPTS))), strict=True):
            assert_rounded(out, truth, 1)


@each_dtype
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_decode_every_shape_of_heads(heads, dtype):
    """Eleven rows of one prompt: more than a crew; another prompt between them; rows leave in the middle of a tail."""
    decoding = Decoding([20, 20, 5, *[20] * 9], heads, dtype, 20)
    for step in range(20):
        if step == 10:
            decoding.keep([7, 2, 11, 0, 4])
        for out, truth in zip(*decoding.step(*inputs(decoding, step, len(decoding.rows))), strict=True):
            assert_rounded(out, truth, 1)


CROWD = [20, 20, 5, 20, 20, 20, 130, 20, 20, 20, 20]


def outs_of(rows, dtype, num_steps):
    """What these rows of the crowd get, in a table of their own."""
    decoding = Decoding([CROWD[r] for r in rows], (6, 2, 24), dtype, 20)
    found = []
    for step in range(num_steps):
        qkv, angle = inputs(decoding, step, len(CROWD))
        found.append(torch.stack(decoding.step(qkv[:, rows], angle[rows])[0]))
    return torch.stack(found)


@each_dtype
def test_decode_a_row_alone_and_in_company_gives_the_same_bits(dtype):
    """Whoever shares a crew is computed in other blocks."""
    everybody = outs_of(list(range(len(CROWD))), dtype, 20)
    for rows in ([0], [6], [3, 4, 2]):
        assert torch.equal(outs_of(rows, dtype, 20), everybody[:, :, rows])


@each_dtype
def test_decode_with_two_threads_gives_the_same_bits(dtype):
    """They make other crews."""
    on_threads(lambda: outs_of(list(range(len(CROWD))), dtype, 2))


def test_decode_what_would_write_elsewhere_is_refused():
    decoding = Decoding([3, 3], (4, 2, 16), torch.float32, 4)
    qkv, angle = inputs(decoding, 0, 2)
    wrong = [
        (qkv[0][:1], angle),
        (qkv[0], angle[:1]),
        (qkv[0][:, :-16].contiguous(), angle),
        (qkv[0].bfloat16(), angle),
        (qkv[0], angle.double()),
        (random(3, qkv.shape[2]), random(3, 8)),
    ]
    for rows, turn in wrong:
        with pytest.raises((ValueError, KeyError)):
            decoding.table.attend(0, rows, turn, turn)
