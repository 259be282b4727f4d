"""The same checkpoint on the same files through lm-evaluation-harness and through upslope, greedy, without calculator.

    pip install lm-eval
    python examples/gsm8k/against_lm_eval.py MODEL DATA [--problems 64] [--max-tokens 200]

Both are asked in float32. What upslope's attempts earn is said three times: by its own rules (strict, lenient), and by
the harness's two (their regular expressions), so that a difference of texts and one of rules can be told apart.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from pathlib import Path

import upslope as up

HERE = Path(__file__).parent
STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a Hugging Face directory")
    parser.add_argument("data", help="a folder with train.jsonl and test.jsonl")
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=200)
    given = parser.parse_args()
    found = compare(given.model, given.data, given.problems, given.max_tokens)
    print(json.dumps(found, indent=1))


def compare(model: str, data: str, problems: int, max_tokens: int) -> dict[str, float]:
    """Accuracies of the first ``problems`` test problems, by who wrote and who judged."""
    with tempfile.TemporaryDirectory() as folder:
        first_problems(Path(data), problems, Path(folder))
        theirs = by_the_harness(model, folder, problems, max_tokens)
        task = up.tasks.gsm8k(folder)
        ours = up.evaluate(model, task, problems=problems, max_tokens=max_tokens, dtype="float32")
        truths = {p.id: p.truth for p in task.problems("test")}
    attempts = [(g.rollouts[0].text, truths[g.problem.id]) for g in ours.greedy]
    return theirs | {
        "upslope, strict": ours.row["greedy"]["value"],
        "upslope, lenient": ours.row["lenient"]["value"],
        "upslope, strict-match": mean([same(first(STRICT, text), truth) for text, truth in attempts]),
        "upslope, flexible-extract": mean([same(last(FLEXIBLE, text), truth) for text, truth in attempts]),
    }


def first_problems(data: Path, num: int, folder: Path) -> None:
    """Write a data set whose test problems are the first ``num``: of a longer one each side would take others."""
    lines = (data / "test.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "test.jsonl").write_text("".join(lines[:num]), encoding="utf-8")
    shutil.copy(data / "train.jsonl", folder / "train.jsonl")


def by_the_harness(model: str, data: str, problems: int, max_tokens: int) -> dict[str, float]:
    """What lm-evaluation-harness says."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as folder:
        yaml = (HERE / "lm_eval.yaml").read_text().replace("MAX_TOKENS", str(max_tokens))
        (Path(folder) / "gsm8k.yaml").write_text(yaml.replace("DATA/", f"{Path(data).resolve()}/"))
        done = simple_evaluate(
            model="hf",
            model_args={"pretrained": model, "dtype": "float32"},
            tasks=["gsm8k_upslope"],
            task_manager=TaskManager(include_path=folder, include_defaults=False),
            limit=problems,
            batch_size=8,
            device="cpu",
            apply_chat_template=True,
            bootstrap_iters=0,
        )
    scores = done["results"]["gsm8k_upslope"]
    return {f"lm-eval, {rule}": scores[f"exact_match,{rule}"] for rule in ("strict-match", "flexible-extract")}


def first(rule: re.Pattern[str], text: str) -> str:
    found = rule.findall(text)
    return found[0] if found else "[invalid]"


def last(rule: re.Pattern[str], text: str) -> str:
    found = rule.findall(text)
    return next(part for part in found[-1] if part) if found else "[invalid]"


def same(answer: str, truth: str) -> bool:
    """The harness's exact match: commas, dollars and a final point do not count."""
    return re.sub(r"\.$", "", re.sub(r"[,$]", "", answer)) == truth


def mean(values: list[bool]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
