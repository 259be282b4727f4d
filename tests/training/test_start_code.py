"""Which code a cached start depends on."""

from pathlib import Path

import upslope
from upslope.training.pocket_start import code_of_a_start


def test_rooms_within_rooms_count_and_rooms_that_no_start_needs_do_not(tmp_path: Path) -> None:
    for name in ("model/llama/layer.py", "model/load.py", "native/attend.c", "native/attend.o", "lab/bench/flops.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in code_of_a_start(tmp_path)]
    assert found == ["native/attend.c", "model/llama/layer.py", "model/load.py"]


def test_the_forward_of_the_pocket_model_counts() -> None:
    package = Path(upslope.__file__).parent
    assert package / "model" / "llama" / "layer.py" in code_of_a_start(package)
