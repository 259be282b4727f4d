"""Who is given which GPU. Ray counts GPUs and names them, and does not ask whether there are any; this is what is tried
here, on processors: the numbers that processes are given, never a computation on a GPU."""

import contextlib
import itertools
import logging
import math
import re
import time

import pytest
import torch

pytest.importorskip("ray")

import ray

from upslope.cluster import gpus, processes
from upslope.cluster.gpus import FINEST, gpu_shares, place_of
from upslope.cluster.launch import OF_RAY, company_of
from upslope.cluster.ranks import meet
from upslope.errors import UserError
from upslope.training.start import launched
from upslope.training.tables import to_settings
from upslope.training.view import NullView

CPU = torch.device("cpu")


class Heard(NullView):
    def __init__(self):
        self.said = []

    def message(self, text):
        self.said.append(text)


@contextlib.contextmanager
def cluster_with(num):
    """A Ray of this process with so many GPUs, as a notebook's own would be."""
    ray.init(
        "local", num_cpus=8, num_gpus=num, include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL
    )
    try:
        yield
    finally:
        ray.shutdown()


def settings(place, **cluster):
    return to_settings(
        {
            "name": "run",
            "out": str(place),
            "model": "pocket:blank",
            "steps": 1,
            "problems": 2,
            "recipe": {"name": "grpo", "sample": {"group_size": 2}},
            "task": {"name": "pocket"},
            "sample": {"max_tokens": 4},
            "eval": {"problems": 0},
            "save": {"rollouts": 0},
            "cluster": cluster,
        }
    )


@pytest.fixture
def taken(monkeypatch):
    """The GPUs that the first learner went to, where the run believes that it computes on GPUs."""
    found = []
    for name, value in OF_RAY.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(processes, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(processes, "meet", lambda *how: meet(*how[:3], CPU))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 7)
    monkeypatch.setattr(torch.cuda, "set_device", found.append)
    return found


def trained(wanted):
    view = Heard()
    with company_of(wanted.cluster) as company:
        launched(wanted, lambda: view, company=company)
    return view.said


def given(said):
    """By role, the GPU of every process that began."""
    found = re.findall(
        r"((?:sampler|learner|reward worker) \d) \(process \d+ on [^,)]*(?:, GPU ([\d,]+))?\)", " ".join(said)
    )
    return dict(found)


def test_nobody_is_put_on_the_first_learners_gpu(tmp_path, taken):
    """Three GPUs, two learners and a sampler. Ray counts none as taken by the process that began the run, so without a
    reservation it would give GPU 0 to learner 1."""
    with cluster_with(3):
        said = trained(settings(tmp_path, ranks=2, samplers=1, rewards=1))
        until = time.monotonic() + 60
        while ray.available_resources().get("GPU", 0) < 3:  # all is given back
            assert time.monotonic() < until
            time.sleep(0.1)
    first, back = taken
    others = given(said)
    assert {str(first), others["learner 1"], others["sampler 0"]} == {"0", "1", "2"}
    assert others["reward worker 0"] == "" and back == 7
    assert not any("share" in text for text in said)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_of_fewer_gpus_it_is_said_who_shares(tmp_path, taken):
    with cluster_with(1):
        said = trained(settings(tmp_path, samplers=2))
    assert "1 learner and 2 samplers share 1 GPU: so there must be memory for all of them" in said
    assert taken[0] == 0 and given(said) == {"sampler 0": "0", "sampler 1": "0"}


def test_too_few_for_the_learners_is_one_line_before_anything_begins(tmp_path, taken):
    with (
        cluster_with(1),
        pytest.raises(UserError, match=r"2 learners and 0 samplers want a GPU each.*has 1 GPU") as said,
    ):
        trained(settings(tmp_path, ranks=2))
    assert "\n" not in str(said.value) and taken == []


@pytest.mark.parametrize(("num", "ranks", "samplers"), [*itertools.product(range(6), range(1, 4), range(5))])
def test_shares_fit_and_learners_share_only_with_samplers_and_only_the_last_one(num, ranks, samplers):
    try:
        shares = gpu_shares(num, ranks, samplers)
    except UserError:
        assert num < ranks or (num == ranks > 1 and samplers)
        return
    assert ranks * shares.learner + samplers * shares.sampler <= num
    assert shares.learner == 1 or (num == ranks == 1)
    assert bool(shares.said) is (num < ranks + samplers)
    if num > ranks and samplers:  # as Ray packs them, so many to one
        assert (num - ranks) * math.floor(1 / shares.sampler) >= samplers
    assert round(shares.sampler * FINEST) == pytest.approx(shares.sampler * FINEST)


def test_a_job_whose_gpu_ray_has_counted_reserves_no_other(monkeypatch, taken):
    monkeypatch.setenv(gpus.OF_JOB, "{}")
    monkeypatch.setenv(gpus.VISIBLE, "3")
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 4.0})
    with contextlib.ExitStack() as held:
        assert gpus.share_gpus("auto", 2, 2, held) == gpu_shares(4, 2, 2)
    assert taken == []


def test_a_gpu_is_found_among_those_that_are_seen(monkeypatch):
    monkeypatch.delenv(gpus.VISIBLE, raising=False)
    assert place_of("2") == 2
    monkeypatch.setenv(gpus.VISIBLE, "5, 2")
    assert place_of("2") == 1
    with pytest.raises(UserError, match="gave GPU 0 to the first learner, which sees only 5, 2"):
        place_of("0")


def test_a_numbered_device_is_refused():
    with pytest.raises(UserError, match="device = 'cuda:1': in a cluster Ray says which GPU"):
        gpus.share_gpus("cuda:1", 1, 1, contextlib.ExitStack())
