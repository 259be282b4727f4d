"""cuDNN's attention is put aside while ours runs on an NVIDIA GPU, and only then."""

from __future__ import annotations

import threading

import pytest
import torch
from tiny import policy, random_groups
from torch.backends.cuda import cudnn_sdp_enabled, enable_cudnn_sdp

from upslope.model import attention
from upslope.model.cudnn import without_cudnn

CUDA = torch.device("cuda", 0)


@pytest.fixture(params=[True, False], ids=["set", "not set"])
def before(request):
    mine = cudnn_sdp_enabled()
    enable_cudnn_sdp(request.param)
    yield request.param
    enable_cudnn_sdp(mine)


def test_the_setting_is_put_back_whatever_happens(before):
    with without_cudnn(CUDA):
        assert not cudnn_sdp_enabled()
        with without_cudnn(CUDA):
            assert not cudnn_sdp_enabled()
        assert not cudnn_sdp_enabled()
    assert cudnn_sdp_enabled() == before
    with pytest.raises(KeyError), without_cudnn(CUDA):
        raise KeyError
    assert cudnn_sdp_enabled() == before
    with without_cudnn(torch.device("cpu")):
        assert cudnn_sdp_enabled() == before


def test_of_two_threads_the_last_one_puts_it_back(before):
    """The first to come leaves first: what it found must not be set while the other is within."""
    inside, leave = threading.Event(), threading.Event()
    seen = []

    def other():
        with without_cudnn(CUDA):
            inside.set()
            leave.wait(10)
            seen.append(cudnn_sdp_enabled())

    thread = threading.Thread(target=other)
    with without_cudnn(CUDA):
        thread.start()
        assert inside.wait(10)
    assert not cudnn_sdp_enabled()
    leave.set()
    thread.join(10)
    assert seen == [False] and cudnn_sdp_enabled() == before


def test_every_pass_of_ours_runs_within(monkeypatch):
    """Packed passes, and one token after the other."""
    asked, subject = [], policy(dtype=torch.float32)
    subject.native = False
    within = attention.without_cudnn

    def noted(device):
        asked.append(device)
        return within(device)

    monkeypatch.setattr(attention, "without_cudnn", noted)
    subject.states([r for g in random_groups(1) for r in g.rollouts])
    assert asked == [torch.device("cpu")] * 2  # a layer each
    decoder = subject.decoder(1, 4)
    decoder.place([0], [(5,)])
    decoder.advance(torch.tensor([5]))
    assert len(asked) == 4
