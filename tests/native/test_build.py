"""Compiling at first use: once, by whoever comes first; and where it is impossible, a reason and the path of torch."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from naive import HERE, SAMPLING, flat
from tiny import drawn, gradients, learner, policy, problems, random_groups

from upslope.algo.family import GRPO
from upslope.algo.objective import Objective
from upslope.learn.prepare import weigh
from upslope.native import build, calls, kernels

needs_compiler = pytest.mark.skipif(bool(build.why_not()), reason=build.why_not())
ROOT = Path(build.__file__).parents[2]
CODE = "from upslope.native import build; print(build.library() is not None); print(build.why_not())"


def start(code=CODE, **environment):
    """A fresh interpreter; variables that are None are taken away."""
    env = {k: v for k, v in (os.environ | environment).items() if v is not None}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def outcome(process):
    """(whether there are kernels, why not)."""
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    found, why = out.removesuffix("\n").split("\n")  # the reason is one line
    return found == "True", why


def script(place, text):
    place.write_text(text)
    place.chmod(0o755)
    return str(place)


def compiler(folder, then=""):
    """A compiler that writes down when it compiles, and does something afterwards. It is quick: it optimises less."""
    real = shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc") or shutil.which("clang")
    note = f'if [ "$1" != --version ]; then echo compiled >> "{folder}/log"; fi'
    return script(folder / "compiler", f'#!/bin/sh\n{note}\n{real} "$@" -O0 || exit 1\n{then}')


def times_compiled(folder):
    log = folder / "log"
    return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """(a cache with kernels in it, the compiler that made them, where that one writes its log)."""
    folder = tmp_path_factory.mktemp("compiled")
    made = compiler(folder)
    assert outcome(start(CC=made, UPSLOPE_CACHE=str(folder / "cache"), UPSLOPE_NATIVE=None)) == (True, "")
    return folder / "cache", made, folder


@needs_compiler
def test_the_second_process_compiles_nothing(compiled):
    cache, made, folder = compiled
    before = times_compiled(folder)
    assert before >= 1
    assert outcome(start(CC=made, UPSLOPE_CACHE=str(cache))) == (True, "")
    assert times_compiled(folder) == before
    (kept,) = (cache / "native").iterdir()
    assert kept.name.startswith("kernels-") and kept.suffix == ".so"


@needs_compiler
def test_two_processes_may_compile_at_the_same_time(tmp_path):
    made = compiler(tmp_path, "sleep 1")
    both = [start(CC=made, UPSLOPE_CACHE=str(tmp_path / "cache")) for _ in range(2)]
    assert [outcome(p) for p in both] == [(True, "")] * 2
    assert times_compiled(tmp_path) == 2, "they did not meet"
    left = [p.suffix for p in (tmp_path / "cache" / "native").iterdir()]
    assert left and set(left) == {".so"}


def emptied(code):
    return b""


def cut(code):
    return code[: len(code) // 3]


def cut_at_a_page(code):
    """Its head names pages that are not there: loading it would end the process."""
    return code[:8192]


def flipped(code):
    middle = len(code) // 2
    return code[:middle] + bytes(255 - b for b in code[middle : middle + 4096]) + code[middle + 4096 :]


@needs_compiler
@pytest.mark.parametrize("damage", [emptied, cut, cut_at_a_page, flipped], ids=lambda damage: damage.__name__)
def test_a_damaged_file_is_made_again(damage, compiled, tmp_path):
    cache, made, folder = compiled
    shutil.copytree(cache, tmp_path / "cache")
    (kept,) = (tmp_path / "cache" / "native").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    before = times_compiled(folder)
    for num in (1, 1):
        assert outcome(start(CC=made, UPSLOPE_CACHE=str(tmp_path / "cache"))) == (True, "")
        assert times_compiled(folder) == before + num
    assert kept.read_bytes() == whole


@needs_compiler
def test_where_nothing_can_be_kept_they_are_made_for_this_process(compiled, tmp_path):
    _, made, folder = compiled
    (tmp_path / "file").write_text("in the way")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    places = [tmp_path / "file"]
    if os.getuid() != 0:  # root may write anywhere
        (tmp_path / "read only").mkdir(mode=0o555)
        places.append(tmp_path / "read only")
    for place in places:
        before = times_compiled(folder)
        assert outcome(start(CC=made, UPSLOPE_CACHE=str(place), TMPDIR=str(scratch))) == (True, "")
        assert times_compiled(folder) == before + 1
        assert not list(scratch.iterdir())


def test_without_a_compiler(tmp_path):
    found, why = outcome(start(PATH=str(tmp_path), CC=None, UPSLOPE_CACHE=str(tmp_path), UPSLOPE_NATIVE=None))
    assert not found
    assert why == "there is no C compiler (cc, gcc or clang)"


SAYS_VERSION = '#!/bin/sh\nif [ "$1" = --version ]; then echo 1; exit; fi\n'
COMPILERS = {
    "one that fails": (
        SAYS_VERSION + 'echo "In a file:" >&2\necho "x.h:1: error: no" >&2\nexit 1\n',
        "could not compile the kernels: x.h:1: error: no",
    ),
    "one that fails silently": (
        SAYS_VERSION + "exit 3\n",
        "could not compile the kernels: it said nothing",
    ),
    "one that does not say its version": ("#!/bin/sh\nexit 1\n", "could not compile the kernels: it said nothing"),
    "one that cannot be run": ("#!/not/there\n", "the kernels could not be compiled or loaded: "),
    "one that writes nonsense": (
        SAYS_VERSION + 'while [ "$1" != -o ]; do shift; done\necho nonsense > "$2"\n',
        "the kernels could not be compiled or loaded: ",
    ),
    "one that writes nothing": ("#!/bin/sh\nexit 0\n", "the kernels could not be compiled or loaded: "),
}


@pytest.mark.parametrize("name", COMPILERS)
def test_with_a_compiler_that_does_not_work(name, tmp_path):
    """Asked twice, as by two runs: the second is told the same, so nothing bad was kept."""
    text, expected = COMPILERS[name]
    made = script(tmp_path / "compiler", text)
    for _ in range(2):
        found, why = outcome(start(CC=made, UPSLOPE_CACHE=str(tmp_path / "cache"), UPSLOPE_NATIVE=None))
        assert not found
        assert expected in why
    kept = tmp_path / "cache" / "native"
    assert not kept.exists() or not list(kept.iterdir())


def test_the_environment_can_forbid_them(tmp_path):
    found, why = outcome(start(UPSLOPE_NATIVE="0", UPSLOPE_CACHE=str(tmp_path)))
    assert not found
    assert why == "UPSLOPE_NATIVE=0 is set"
    assert not list(tmp_path.iterdir())


def work(dtype):
    """What sampling and learning come to."""
    of = policy(dtype=dtype)
    rollouts = flat(drawn(of, problems(3), 4, SAMPLING, HERE))
    subject = learner(GRPO, of=of, dtype=dtype)
    subject.gradient(Objective(GRPO), weigh(subject.prepare(random_groups()), GRPO))
    return [r.response for r in rollouts], torch.cat([g.flatten() for g in gradients(subject).values()])


@needs_compiler
@pytest.mark.parametrize("how", ["forbidden", "impossible"])
def test_without_them_everything_works_through_torch(how, monkeypatch):
    assert kernels.available(torch.float32, torch.device("cpu"))
    responses, slope = work(torch.float32)
    if how == "forbidden":
        monkeypatch.setenv("UPSLOPE_NATIVE", "0")
    else:
        monkeypatch.setattr(build, "_found", lambda: (None, "there is none"))
        assert build.why_not() == "there is none"
    assert not kernels.available(torch.float32, torch.device("cpu"))
    calls.kernel.cache_clear()  # whoever called one now would find out
    with pytest.raises(RuntimeError, match="where there are none"):
        kernels.swiglu(torch.ones(1, 2))
    others, other_slope = work(torch.float32)
    assert others == responses
    assert (slope - other_slope).norm() <= 2e-6 * slope.norm()  # two float32 paths; see test_sharing
    work(torch.bfloat16)


def test_without_a_compiler_everything_works_from_the_first_import_on(tmp_path):
    code = (
        "import sys; sys.path.insert(0, 'tests/support')\n"
        "import torch\nfrom naive import HERE, SAMPLING\nfrom tiny import drawn, policy, problems\n"
        "from upslope.native import build\nfrom upslope.rollout.local import LocalSampler\n"
        "made = drawn(policy(dtype=torch.float32), problems(2), 2, SAMPLING, HERE)\n"
        "print(build.library() is not None or len(made) != 2); print(build.why_not())"
    )
    environment = {"PATH": str(tmp_path), "CC": None, "UPSLOPE_CACHE": str(tmp_path), "UPSLOPE_NATIVE": None}
    assert outcome(start(code, **environment)) == (False, "there is no C compiler (cc, gcc or clang)")


def test_the_package_ships_its_sources():
    """Whoever installs a wheel compiles from it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["upslope"]
    shipped = {path for pattern in patterns for path in (ROOT / "upslope").glob(pattern) if path.is_file()}
    sources = set(build.HERE.glob("*.[ch]"))
    others = {ROOT / "upslope" / "py.typed", ROOT / "upslope" / "training" / "pocket.toml"}
    others |= {ROOT / "upslope" / "inspect" / "reading" / "family.json"}
    others |= {path for path in (ROOT / "upslope" / "inspect" / "look" / "static").rglob("*") if path.is_file()}
    assert shipped == sources | others and len(sources) >= 7
