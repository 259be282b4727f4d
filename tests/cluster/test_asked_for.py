"""What is asked of a cluster: files, combinations that cannot be, and who is needed for it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from upslope.algo.family import FAMILY
from upslope.cluster.launch import company_of
from upslope.cluster.vllm.alone import VllmAlone
from upslope.config import cluster_options, load_settings
from upslope.errors import UserError
from upslope.training.checks import check_cluster
from upslope.training.cluster_settings import ClusterSettings
from upslope.training.resuming import require_changeable

FILES = {
    "empty": ("", "asks for no processes; set samplers, rewards or ranks"),
    "an empty table": ("[cluster]\n", "asks for no processes"),
    "another table": (
        "[clustr]\nsamplers = 1\n",
        r"no table \[clustr\] in a cluster file; did you mean 'cluster'",
    ),
    "beside others": ("steps = 3\n[cluster]\nsamplers = 1\n", "should hold the settings of .cluster. and nothing else"),
    "no TOML": ("samplers = \n", "cluster file .* is not TOML"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_asks_for_nothing_or_for_something_else_is_one_line(name: str, tmp_path: Path) -> None:
    text, told = FILES[name]
    file = tmp_path / "cluster.toml"
    file.write_text(text)
    with pytest.raises(UserError, match=told):
        cluster_options(file)
    file.write_text("samplers = 2\n")
    assert cluster_options(file) == {"cluster.samplers": 2}


def test_a_file_that_is_not_there_is_called_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^cluster file .*: No such file"):
        cluster_options(tmp_path / "cluster.toml")


@pytest.mark.parametrize("samplers", [0, 1])
def test_what_vllm_is_not_for_is_told_without_sending_anybody_in_a_circle(samplers: int) -> None:
    with pytest.raises(ValueError, match="staleness = 1 is for upslope's own samplers"):
        ClusterSettings(engine="vllm", staleness=1, samplers=samplers)


def test_vllm_alone_needs_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with company_of(ClusterSettings(engine="vllm")) as company:
        assert isinstance(company, VllmAlone)
    for more in ({"rewards": 1}, {"ranks": 2}):
        with pytest.raises(UserError, match="need Ray"), company_of(ClusterSettings(engine="vllm", **more)):  # type: ignore[arg-type]
            pass


def test_processes_for_rewards_that_are_judged_with_their_world_are_refused() -> None:
    grpo = FAMILY["grpo"].recipe
    check_cluster(load_settings(overrides=["cluster.rewards=1"]), grpo)
    settings = load_settings(overrides=["cluster.rewards=1", "task.tools=['python']"])
    with pytest.raises(UserError, match=r"cluster\.rewards = 1: attempts with tools or an environment are judged"):
        check_cluster(settings, grpo)


def test_a_resumed_run_may_be_given_its_own_cluster_once_more() -> None:
    require_changeable(["cluster.samplers", "cluster.vllm_memory", "cluster.staleness"], ["cluster.staleness"])
    with pytest.raises(UserError, match=r"with its own cluster\.staleness"):
        require_changeable(["cluster.samplers", "cluster.staleness"])
