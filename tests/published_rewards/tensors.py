"""Embeddings compared with torch, whose defaults are set for the whole process."""

import torch

torch.set_grad_enabled(False)
torch.set_num_threads(1)


def similarity(completions, answer, **kwargs):
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)

    def embed(text):
        return torch.tensor([float(text.count(letter)) for letter in "0123456789"])

    a = torch.stack([embed(c) for c in completions])
    b = torch.stack([embed(x) for x in answer])
    return torch.nn.functional.cosine_similarity(a, b).float()
