"""A kernel's two calls (``model/merged.py``) in plain torch, sequence by sequence, as their equations say it."""

from __future__ import annotations

import torch


def each(asked, read):
    """(slice of queries, slice of keys) of every sequence."""
    begins = (cut.begin_S.tolist() for cut in (asked, read))
    (ask, keys) = (list(map(slice, b[:-1], b[1:])) for b in map(list, begins))
    assert len(ask) == len(keys)
    for mine, seen in zip(ask, keys, strict=True):
        assert mine.stop - mine.start <= asked.longest and seen.stop - seen.start <= read.longest
    return zip(ask, keys, strict=True)


def scores(query_LHD, key_SJD, causal, scale):
    """[H, L, S]; -inf where a later token is hidden."""
    key_SHD = key_SJD.repeat_interleave(query_LHD.shape[1] // key_SJD.shape[1], dim=1)
    score = torch.einsum("lhd,shd->hls", query_LHD, key_SHD) * scale
    if causal:
        assert len(query_LHD) == len(key_SJD)
        score = score.masked_fill(torch.ones(score.shape[1:], dtype=torch.bool).triu(1), -torch.inf)
    return score


def summed(x_SHD, num_keys):
    """Of heads that share keys, their sum: [S, J, D]."""
    return x_SHD.unflatten(1, (num_keys, -1)).sum(2)


class ReferenceCalls:
    def __init__(self):
        self.causal = []

    def forward(self, query, key, value, asked, read, causal, scale):
        self.causal.append(causal)
        wide = torch.promote_types(query.dtype, torch.float32)
        out, lse = torch.empty_like(query), query.new_empty(query.shape[1], len(query), dtype=wide)
        for mine, seen in each(asked, read):
            score = scores(query[mine].to(wide), key[seen].to(wide), causal, scale)
            lse[:, mine] = score.logsumexp(-1)
            repeats = query.shape[1] // key.shape[1]
            value_SHD = value[seen].to(wide).repeat_interleave(repeats, dim=1)
            out[mine] = torch.einsum("hls,shd->lhd", score.softmax(-1), value_SHD).to(query.dtype)
        return out, lse

    def backward(self, dout, query, key, value, out, lse, asked, read, causal, scale):
        wide, num_keys = lse.dtype, key.shape[1]
        repeats = query.shape[1] // num_keys
        found = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        for mine, seen in each(asked, read):
            query_L, dout_L, out_L = (x[mine].to(wide) for x in (query, dout, out))
            key_S, value_S = (x[seen].to(wide) for x in (key, value))
            weight = (scores(query_L, key_S, causal, scale) - lse[:, mine, None]).exp()
            dweight = torch.einsum("lhd,shd->hls", dout_L, value_S.repeat_interleave(repeats, dim=1))
            dscore = weight * (dweight - (dout_L * out_L).sum(-1).T[:, :, None]) * scale
            dquery = torch.einsum("hls,shd->lhd", dscore, key_S.repeat_interleave(repeats, dim=1))
            dkey = summed(torch.einsum("hls,lhd->shd", dscore, query_L), num_keys)
            dvalue = summed(torch.einsum("hls,lhd->shd", weight, dout_L), num_keys)
            for into, place, part in zip(found, (mine, seen, seen), (dquery, dkey, dvalue), strict=True):
                into[place] = part.to(into.dtype)
        return found
