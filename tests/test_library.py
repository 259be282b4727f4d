"""The Python face: every name, the ten lines, objects of one's own, what a process is left with."""

from __future__ import annotations

import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import with_kernels
from tiny import TOKENIZER, model as tiny_model

import upslope as up
from upslope.model.attention import NAME
from upslope.model.hf import attention_in_use
from upslope.training import pocket_start
from upslope.types import Problem, Score

ROOT = Path(__file__).resolve().parents[1]
QUICK: dict[str, Any] = {
    "problems": 4,
    "eval": {"problems": 4},
    "sample": {"max_tokens": 8},
    "learn": {"lr": 1e-3, "dtype": "float32"},
    "progress": False,
}


class Vowels:
    """A task with the two methods that it must have."""

    def problems(self, split: str) -> list[Problem]:
        return [Problem(f"{split}/{i}", ({"role": "user", "content": f"Say {i} vowels."},)) for i in range(8)]

    def score(self, problems: Any, responses: Any) -> list[Score]:
        return [Score(len(re.findall("[aeiou]", r)) / (1 + len(r))) for r in responses]


def tiny() -> tuple[Any, Any]:
    return tiny_model(dtype=torch.float32), TOKENIZER


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", up.__all__)
def test_every_name_is_there_documented_and_in_the_page(name: str) -> None:
    found = getattr(up, name)
    page = (ROOT / "docs" / "library.md").read_text("utf-8")
    if name != "__version__":
        assert re.search(rf"`(up\.)?{name}\b", page), f"docs/library.md does not say what {name} is"
    if callable(found) and not isinstance(found, up.Recipe):
        assert (found.__doc__ or "").strip()
    assert name in dir(up)


def test_every_member_of_the_family_is_exported() -> None:
    exported = [getattr(up, name) for name in up.__all__ if name.isupper() and name != "FAMILY"]
    assert len(exported) == len(up.FAMILY)
    assert all(branch.recipe in exported for branch in up.FAMILY.values())


@pytest.mark.parametrize("package", [up, up.tasks], ids=lambda package: package.__name__)
def test_no_module_hides_a_public_name(package: Any) -> None:
    """Once a submodule is loaded, it stands under its own name in its package, whatever stood there."""
    modules = {m.name for m in pkgutil.iter_modules(package.__path__)}
    names = set(package.__all__) - {"tasks"}  # the room itself is what `up.tasks` names
    assert not modules & names


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'tarin'"):
        up.tarin  # noqa: B018


def test_importing_loads_nothing_and_changes_nothing() -> None:
    code = (
        "import os, sys; before = dict(os.environ); import upslope; "
        "assert dict(os.environ) == before; "
        "assert not {'torch', 'transformers', 'pyarrow', 'rich'} & set(sys.modules); "
        "import upslope.model.policy, transformers; "
        "assert transformers.utils.logging.is_progress_bar_enabled(); "
        "import torch; assert not torch.are_deterministic_algorithms_enabled()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_first_name_that_may_load_torch_asks_for_quiet_threads_before() -> None:
    """Threads that ask for work for milliseconds made a small model many times slower beside other work."""
    code = (
        "import os, upslope; upslope.UserError; assert os.environ['GOMP_SPINCOUNT'] == '3000'; "
        "assert 'STRICT' in os.environ['MKL_CBWR']; import sys; assert 'torch' not in sys.modules"
    )
    env = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "MKL_CBWR", "OMP_WAIT_POLICY")}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
    mine = "import os, upslope; upslope.UserError; assert 'GOMP_SPINCOUNT' not in os.environ"
    subprocess.run([sys.executable, "-c", mine], check=True, env=env | {"OMP_WAIT_POLICY": "active"})


def test_a_type_checker_sees_the_package() -> None:
    assert (Path(up.__file__).parent / "py.typed").exists()


# -- train ----------------------------------------------------------------------------------------------------------


def test_a_model_and_a_task_of_ones_own_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, tokenizer = tiny()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    threads, own = torch.get_num_threads(), attention_in_use(model)
    run = up.train((model, tokenizer), task=Vowels(), recipe=up.GRPO, steps=2, threads=1, **QUICK)
    assert isinstance(run, up.Run)
    assert run.model is model and run.tokenizer is tokenizer and run.folder is None
    assert any(not torch.equal(before[n], p) for n, p in model.named_parameters())
    assert [row["step"] for row in run.rows("step")] == [0, 1] and len(run.rows("eval")) == 2
    attempts = run.rollouts(1)
    assert len(attempts) == 4 * up.GRPO.sample.group_size and {"response", "advantage", "ratio"} <= attempts[0].keys()
    with pytest.raises(up.UserError, match="no attempts of step 7"):
        run.rollouts(7)
    assert list(tmp_path.iterdir()) == []
    assert torch.get_num_threads() == threads and not torch.are_deterministic_algorithms_enabled()
    assert attention_in_use(model) == own != NAME
    assert model.generate(torch.tensor([[5, 6]]), max_new_tokens=2).shape[0] == 1  # as any other model


def test_memory_and_folder_hold_the_same(tmp_path: Path) -> None:
    runs = [up.train(tiny(), task=Vowels(), recipe="grpo", steps=2, folder=f, **QUICK) for f in (None, tmp_path / "a")]
    drop = ("seconds", "spent", "tokens_per_s", "memory_gb", "resident_gb")
    one, other = ([{k: v for k, v in r.items() if k not in drop} for r in run.rows("step")] for run in runs)
    assert one == other
    assert runs[0].rollouts(1) == runs[1].rollouts(1)


def test_a_run_in_a_folder_goes_on_with_the_same_objects(tmp_path: Path) -> None:
    given: dict[str, Any] = {"task": Vowels(), "recipe": up.REINFORCE.patch(advantage=above_half)}
    whole = up.train(tiny(), **given, steps=4, folder=tmp_path / "whole", **QUICK)
    up.train(tiny(), **given, steps=2, folder=tmp_path / "parts", **QUICK)
    parts = up.train(tiny(), **given, steps=4, folder=tmp_path / "parts", resume=True, **QUICK)
    assert whole.rollouts(3) == parts.rollouts(3)
    with pytest.raises(up.UserError, match="holds a run already"):
        up.train(tiny(), **given, steps=4, folder=tmp_path / "parts", **QUICK)


def test_a_model_that_is_handed_in_is_the_one_that_goes_on(tmp_path: Path) -> None:
    given: dict[str, Any] = {"task": Vowels(), "recipe": "grpo", "folder": tmp_path / "a"}
    first = up.train(tiny(), **given, steps=2, **QUICK)
    model, tokenizer = tiny()
    run = up.train((model, tokenizer), **given, steps=2, resume=True, **QUICK)
    assert run.model is model
    for own, theirs in zip(model.parameters(), first.model.parameters(), strict=True):
        assert torch.equal(own, theirs)
    with pytest.raises(up.UserError, match=r"not the one of .*other names or shapes"):
        up.train((tiny_model(hidden_size=16), TOKENIZER), **given, steps=3, resume=True, **QUICK)


def test_rows_of_a_kind_that_there_is_not(tmp_path: Path) -> None:
    run = up.train(tiny(), task=Vowels(), steps=1, **QUICK)
    with pytest.raises(up.UserError, match="no rows of kind 'evals'; did you mean 'eval'"):
        run.rows("evals")


def test_a_member_of_the_family_is_a_recipe_too() -> None:
    run = up.train(tiny(), task=Vowels(), recipe=up.FAMILY["grpo"], steps=1, **QUICK)
    assert run.recipe == up.GRPO
    with pytest.raises(up.UserError, match="advantge is not a slot of a recipe; did you mean 'advantage'"):
        up.GRPO.patch(advantge=above_half)


class Faulty(up.Task):
    """A subclass of ``Task``, checked like any other object."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def problems(self, split: str) -> list[Problem]:
        twice = self.fault == "twice"
        return [Problem(f"{split}/{0 if twice else i}", ({"role": "user", "content": f"{i}"},)) for i in range(8)]

    def score(self, problems: Any, responses: Any) -> Any:
        if self.fault == "crash":
            return 1 / 0
        return [0.5 for _ in responses] if self.fault == "numbers" else [Score(0.5) for _ in responses]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("twice", r"problems\('train'\)\[1\] has the id 'train/0', as problems\('train'\)\[0\] has"),
        ("crash", r"score\(\) crashed: ZeroDivisionError.*test_library.py:\d+"),
        ("numbers", r"score\(\)\[0\] is a float, not a Score"),
    ],
)
def test_a_subclass_of_task_is_checked_like_any_object(fault: str, words: str) -> None:
    with pytest.raises(up.UserError, match=words):
        up.train(tiny(), task=Faulty(fault), steps=1, **QUICK)
    assert up.train(tiny(), task=Faulty("none"), steps=1, **QUICK).task.name == "Faulty"


def above_half(batch: up.Batch) -> torch.Tensor:
    """A slot of one's own, without any declaration."""
    return torch.where(batch.mask_NT, (batch.reward_N - 0.5)[:, None], 0.0)


def test_a_run_of_objects_says_so_and_the_command_line_sends_back_to_python(tmp_path: Path) -> None:
    from upslope.config import load_settings

    up.train(tiny(), task=Vowels(), steps=1, folder=tmp_path / "a", **QUICK)
    with pytest.raises(up.UserError, match="model, task was an object of Python, which no file can hold"):
        load_settings(tmp_path / "a" / "run.toml")


def test_a_saved_model_is_an_ordinary_directory(tmp_path: Path) -> None:
    run = up.train(tiny(), task=Vowels(), steps=1, **QUICK)
    run.save(tmp_path / "saved")
    assert up.evaluate(str(tmp_path / "saved"), Vowels(), problems=2, max_tokens=4).row["reward"] >= 0


def test_weights_whose_parts_are_gone_are_saved_from_the_checkpoint(tmp_path: Path) -> None:
    """As those of a run in shards that computed in bfloat16: what is left in the process is not the whole of them."""
    kept = up.train(tiny(), task=Vowels(), steps=1, folder=tmp_path / "a", **QUICK)
    in_memory = up.train(tiny(), task=Vowels(), steps=1, **QUICK)
    for run in (kept, in_memory):
        run.learner.full_precision = lambda: None  # type: ignore[method-assign]
        for parameter in run.model.parameters():
            parameter.data.zero_()
    kept.save(tmp_path / "saved")
    saved = (tmp_path / "saved" / "model.safetensors").read_bytes()
    assert saved == (tmp_path / "a" / "checkpoints" / "step-000001" / "model.safetensors").read_bytes()
    with pytest.raises(up.UserError, match=r"in shards on processes that have ended, .*; give the run a folder"):
        in_memory.save(tmp_path / "other")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"stps": 3}, "there is no setting stps; did you mean 'steps'"),
        ({"learn": {"lr": -1}}, "learn.lr = -1 must be at least 0"),
        ({"problems": 0}, "problems = 0 must be at least 1"),
        ({"steps": "many"}, "steps = 'many' should be int"),
        ({"recipe": "grop"}, "recipe 'grop' is not known"),
        ({"task": "gsm9k"}, "there is no task 'gsm9k'"),
        ({"task": None}, "which task?"),
        ({"out": "x"}, "give folder="),
        ({"sample": {"top_k": 5}}, "cannot be scored exactly"),
        ({"recipe": "ppo"}, "critic.warmup"),
        ({"reference": {"every": 3}}, "no slot of this recipe refers"),
        ({"reference": {"every": 3, "model": "x"}, "recipe": "rloo"}, "set one of the two"),
        ({"recipe": up.REINFORCE.patch(advantage=up.PPO.advantage)}, "needs a critic"),
        ({"lr": 1e-4}, "there is no setting lr; did you mean learn.lr (in Python learn={'lr': ...})?"),
        ({"recipe": 3}, "recipe is a int; give a name"),
        ({"task": up.tasks.pocket}, "task pocket is a function; call it"),
        ({"task": Vowels}, "task Vowels is a type; call it"),
        ({"progress": None}, "progress is a NoneType; give True, False"),
        ({"sampler": object()}, "sampler is a object; give a function from the policy"),
        ({"folder": __file__}, "is a file; give a folder"),
        ({"resume": True}, "resume=True continues the run of a folder; give folder="),
    ],
)
def test_what_the_command_line_refuses_is_refused_here(arguments: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {**QUICK, "task": Vowels(), "steps": 1, **arguments}
    with pytest.raises(up.UserError) as error:
        up.train(tiny(), **given)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (3, "a int is no model"),
        ((1, 2, 3), "a tuple of 3 is no model"),
        ((1, 2), r"\(int, int\) is no \(model, tokenizer\)"),
        (tiny()[::-1], r"is no \(model, tokenizer\)"),
        ("no/such/place", "there is no such directory"),
    ],
)
def test_what_is_no_model_is_said(model: Any, words: str) -> None:
    with pytest.raises(up.UserError, match=words):
        up.train(model, task=Vowels(), steps=1, **QUICK)


def test_a_model_without_its_tokenizer_is_asked_for_it() -> None:
    with pytest.raises(up.UserError, match="which tokenizer this model has"):
        up.evaluate(tiny()[0], Vowels())


# -- evaluate, sample, score ----------------------------------------------------------------------------------------


def test_evaluate_sample_and_score() -> None:
    model, tokenizer = tiny()
    found = up.evaluate((model, tokenizer), Vowels(), samples=2, problems=3, max_tokens=6)
    assert found.row["greedy"]["num_problems"] == 3 and set(found.row["pass_at"]) == {"1", "2"}
    assert "pass@2" in str(found)
    prompts = ["Say a.", [{"role": "user", "content": "Say b."}], Vowels().problems("test")[0]]
    asked: dict[str, Any] = {"samples": 2, "sampling": up.Sampling(max_tokens=5)}
    one, other = (up.sample(model, prompts, **asked, seed=s) for s in (1, 1))
    assert one == other and [len(group) for group in one] == [2, 2, 2]
    assert one != up.sample(model, prompts, **asked, seed=2)
    assert model.training is tiny()[0].training
    scores = up.score(Vowels(), Vowels().problems("test")[:2], ["aeiou", "xyz"])
    assert scores[0].reward == 5 / 6 and scores[1].reward == 0
    with pytest.raises(up.UserError, match="2 problems and 1 responses"):
        up.score(Vowels(), Vowels().problems("test")[:2], ["a"])


def test_one_prompt_is_not_taken_for_many() -> None:
    for prompts in ("hello", [{"role": "user", "content": "hello"}], {"role": "user", "content": "hello"}):
        with pytest.raises(up.UserError, match=r"prompts is a list; for one question or one chat give \[it\]"):
            up.sample(tiny(), prompts)  # type: ignore[arg-type]


def test_what_sampling_may_take_by_default_fits_the_model() -> None:
    ((attempt,),) = up.sample(tiny(), ["Say a. " * 20])
    assert 1 <= len(attempt.response) <= 256 - len(attempt.prompt)


def test_arguments_that_would_do_nothing_are_refused() -> None:
    with pytest.raises(up.UserError, match="problems = 0: an evaluation needs at least one"):
        up.evaluate(tiny(), Vowels(), problems=0)
    with pytest.raises(up.UserError, match="dtype and device are for models that are named"):
        up.evaluate(tiny(), Vowels(), dtype="float64")
    with pytest.raises(up.UserError, match="dtype and device are for models that are named"):
        up.sample(tiny(), ["Say a."], device="cpu")


# -- the examples ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_start(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Code after which the pocket model is made with next to no training, in a cache that has the kernels."""
    place = tmp_path_factory.mktemp("start")
    with_kernels(place / "cache")
    text = pocket_start.FILE.read_text()
    for steps, few in (("steps = 2500", "steps = 100"), ("steps = 235", "steps = 50")):
        assert steps in text
        text = text.replace(steps, few)
    (place / "pocket.toml").write_text(text)
    return (
        "import os, pathlib\n"
        "from upslope.training import pocket_start\n"
        f"os.environ['UPSLOPE_CACHE'] = {str(place / 'cache')!r}\n"
        f"pocket_start.FILE = pathlib.Path({str(place / 'pocket.toml')!r})\n"
    )


def in_three_steps(code: str, steps: int) -> str:
    """The code of an example, with three of its steps."""
    code, runs = re.subn(rf"\bsteps={steps}\b", "steps=3", code)
    code, looks = re.subn(rf"\bstep={steps - 1}\b", "step=2", code)
    assert (runs, looks) == (1, 1), "the example trains and looks at its last step once"
    return code


@pytest.mark.slow
def test_the_notebook_runs_and_draws(small_start: str) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "examples" / "first_run.ipynb", as_version=4)
    between = "\n# the next cell\n"
    sources = in_three_steps(between.join(cell.source for cell in notebook.cells), 25).split(between)
    for cell, source in zip(notebook.cells, sources, strict=True):
        cell.source = source
    notebook.cells.insert(0, nbformat.v4.new_code_cell(small_start))
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    kinds = [kind for cell in notebook.cells for out in cell.get("outputs", ()) for kind in out.get("data", ())]
    assert "image/png" in kinds


@pytest.mark.slow
def test_the_script_runs(small_start: str) -> None:
    code = in_three_steps((ROOT / "examples" / "first_run.py").read_text("utf-8"), 20)
    done = subprocess.run([sys.executable, "-c", small_start + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"mean reward 0\.\d\d -> 0\.\d\d", done.stdout) and "pass@8" in done.stdout
