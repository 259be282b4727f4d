"""Layouts of packed tokens, as spans and as plain masks."""

import torch

from upslope.native.spans import Spans

LAYOUTS = {
    "one token": [(1, [])],
    "stems": [(3, []), (1, []), (16, []), (17, []), (64, []), (65, []), (210, [])],
    "branches": [(5, [1, 4, 17]), (1, [2, 1]), (70, [3, 66, 16]), (16, [1]), (130, [80, 9])],
    "both": [(4, []), (33, [2, 40, 1]), (9, []), (2, [31, 205]), (64, [64, 64]), (1, [])],
}
"""(prompt, [branches]) as numbers of tokens. A response of one token has no branch: nothing is predicted from it."""


def laid_out(layout):
    """(spans, mask [K, K]): tokens lie as model/layout.py lays them, a prompt and then its branches."""
    stems, branches, children, end = [], [], [], 0
    num_stems = len(layout)
    for prompt, lengths in layout:
        start, end = end, end + prompt
        stems.append((start, prompt, 0, 0))
        children.append((num_stems + len(branches), len(lengths)))
        for length in lengths:
            branches.append((end, length, start, prompt))
            end += length
    mask = torch.zeros(end, end, dtype=torch.bool)
    for start, length, seen, upto in [*stems, *branches]:
        for i in range(length):
            mask[start + i, seen : seen + upto] = True
            mask[start + i, start : start + i + 1] = True
    return Spans([*stems, *branches], children), mask
