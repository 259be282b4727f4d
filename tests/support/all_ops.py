"""Every function of an ``Ops`` on the same numbers."""

import torch
from exact import random

from upslope.native import torch_ops
from upslope.native.heads import Heads

EPS = 1e-5
HEADS = Heads(6, 2, 16, 0.25)
ANGLES = 10 * random(40, 8, seed=9)


def results(ops, dtype, cast):
    """{name: (result, roundings to the dtype)} of every function on the same numbers, which ``dtype`` holds exactly;
    ``cast`` says in which precision they are computed."""
    x, add, dout = (random(40, 33, seed=i, dtype=dtype).to(cast) for i in range(3))
    weight, head_weight = (random(n, seed=3, dtype=dtype).to(cast) for n in (33, 16))
    found = {}
    total, out, rstd = ops.norm(x, add, weight, EPS, keep=True)
    found["norm's sum"], found["norm"], found["rstd"] = (total, 1), (out, 3), (rstd, 3)
    plain_rstd = ops.norm(x, None, weight, EPS, keep=True)[2]
    dx, dweight = ops.norm_backward(dout, x, plain_rstd, weight, add)
    found["norm, dx"], found["norm, dweight"] = (dx, 1), (dweight, 1)
    both, dact = random(40, 66, seed=4, dtype=dtype).to(cast), dout.clone()
    found["swiglu"] = (ops.swiglu(both), 2)
    ops.swiglu_backward_(both, dact)
    found["swiglu, dboth"], found["swiglu again"] = (both, 2), (dact, 2)
    qkv, dqkv = (random(40, HEADS.columns, seed=i, dtype=dtype).to(cast) for i in (5, 6))
    for back in (False, True):
        turned = qkv.clone()
        ops.rotary_(turned, ANGLES.cos(), ANGLES.sin(), 8, back=back)
        found[f"rotary, {back}"] = (turned, 1)
    normed = qkv.clone()
    ops.head_norm_(normed, 96, head_weight, 2, EPS)
    found["head_norm"] = (normed, 2)
    slope = dqkv.clone()
    found["head_norm, dweight"] = (ops.head_norm_backward_(slope, qkv, 96, head_weight, 2, EPS), 1)
    found["head_norm, dx"] = (slope, 1)
    logits, target = random(40, 1500, seed=7, dtype=dtype, scale=3).to(cast), torch.arange(40) * 37 % 1500
    logits[:, 5:9] = -torch.inf
    logp, entropy, peak = ops.logps(logits, target, 0.7)
    found["logp"], found["entropy"] = (logp, 1), (entropy, 1)
    ops.logps_backward_(logits, target, 0.7, peak, random(40, seed=8).to(peak.dtype))
    found["logps, dlogits"] = (logits, 1)
    return found


def continued(ops, dtype, num, longest, leave, begin):
    """(attention, the plain one's in float64) of each of two layers at every of ``num`` tokens. Five rows of a table:
    three share a prompt of ``longest`` tokens, one has none; two leave before token ``leave``, and another begins anew
    before token ``begin``."""
    tables = [(ops.table(HEADS, 2, 5, num, random(1, dtype=dtype)), dtype)]
    tables.append((torch_ops.table(HEADS, 2, 5, num, random(1).double()), torch.float64))
    lengths, made = {"long": longest, "short": 3, "none": 0}, []
    for table, cast in tables:
        prompts = {name: table.prompt(length) for name, length in lengths.items()}
        for (name, length), layer in ((item, layer) for item in lengths.items() for layer in range(2)):
            keys, values = (random(length, 2, 16, seed=len(name) + layer + 5 * i, dtype=dtype).to(cast) for i in (0, 1))
            table.store(prompts[name], layer, keys, values)
        made.append(prompts)
    rows = ["long", "none", "long", "short", "long"]
    for step in range(num):
        if step == leave:
            rows = [rows[i] for i in (4, 1, 2)]
            for table, _ in tables:
                table.keep(torch.tensor([4, 1, 2]))
        if step == begin:
            rows[0] = "short"
            for table, _ in tables:
                table.written_N[0] = 0
        if step in (0, leave, begin):
            for (table, _), prompts in zip(tables, made, strict=True):
                table.assign([prompts[name] for name in rows])
        angle = 10 * random(len(rows), 8, seed=step)
        for layer in range(2):
            qkv = random(len(rows), HEADS.columns, seed=500 + 2 * step + layer, dtype=dtype)
            yield tuple(table.attend(layer, qkv.clone().to(cast), angle.cos(), angle.sin()) for table, cast in tables)
        for table, _ in tables:
            table.written_N += 1
