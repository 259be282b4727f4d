"""The tool file and the environment class of examples/tools, unchanged, in TRL's trainer and in upslope.

    pip install trl==1.16.0 datasets
    python examples/tools/make_tools.py
    python benchmarks/tools_vs_trl.py [MODEL] [--tools examples/tools]

TRL's GRPOTrainer makes two steps with the calculator (``tools=``) and two with the guessing room
(``environment_factory=``). What its policy wrote, turn by turn, is then written in upslope: the schemas that the policy
is told, all calls with their arguments and results, every message, every token of the row and every reward are
compared. Without MODEL the turns are given, right calls and wrong ones of every kind, and the model is a new one;
with MODEL (``runs/calculator-sft``) it writes to the calculator what it draws. Last, upslope makes two steps of its own
with the same files. It ends with 1 if anything differs that is not listed under "Differences" in docs/conversations.md.

TRL is told two things that upslope reads from the chat template: the token that ends a turn
(``tokenizer.eos_token``), and how a call is written (``tokenizer.response_template``).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false"}

from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import get_json_schema
from trl_tools import (
    END,
    GROUP,
    PROBLEMS,
    RESPONSE_TEMPLATE,
    SCRIPTS,
    STEPS,
    TOKENS,
    TURNS,
    Attempt,
    Side,
    side,
    trl_steps,
)

import upslope as up
from upslope.model.chat_renderer import ChatRenderer
from upslope.model.new import new_model
from upslope.model.settings import NewModelSettings
from upslope.model.tools_shown import schema_of
from upslope.rollout.address import Address
from upslope.rollout.base import Request
from upslope.rollout.groups import sample_groups
from upslope.rollout.scripted import ScriptedSampler
from upslope.tasks.registry import open_task
from upslope.tasks.tools.calls import calls_in
from upslope.training.scored import score
from upslope.types import Rollout, Sampling

TOOLS = Path(__file__).resolve().parents[1] / "examples" / "tools"


def upslope_replay(of: Side, batches: list[list[Attempt]], tokenizer: Any) -> list[list[Rollout]]:
    """The same turns, written in upslope: the attempts in TRL's order."""
    renderer = ChatRenderer.of(tokenizer)
    task = open_task("user", data=str(of.data), max_turns=TURNS, **of.settings())
    by_id = {problem.id: problem for problem in task.problems("train")}
    replayed = []
    for batch in batches:
        asked = list(dict.fromkeys(attempt.problem for attempt in batch))
        own = {id: [a for a in batch if a.problem == id] for id in asked}
        asked_so_far: dict[tuple[str, int], int] = {}

        def write(request: Request, own: Any = own, so_far: Any = asked_so_far) -> tuple[list[int], list[float]]:
            at = (request.problem_id, request.sample)
            turns, number = own[at[0]][at[1]].turns, so_far.get(at, 0)
            turn = turns[number] if number < len(turns) else [renderer.turn_end_id]  # TRL made an end before
            so_far[at] = number + 1
            return turn, [-0.5] * len(turn)

        sampler = ScriptedSampler(write, end_ids=renderer.end_ids)
        problems, limits = [by_id[id] for id in asked], Sampling(max_tokens=TOKENS)
        groups = sample_groups(sampler, renderer, problems, GROUP, limits, Address(0, "sample"), episode=task.episode)
        rollouts = {g.problem.id: iter(g.rollouts) for g in score(task, renderer, problems, groups)}
        replayed.append([next(rollouts[attempt.problem]) for attempt in batch])
    return replayed


def counted(calls: list[Any]) -> list[str]:
    return sorted(json.dumps(each, sort_keys=True) for each in calls)


def failed(message: Any) -> bool:
    """Whether a tool's message says that a call failed: TRL writes a dict as Python does, upslope as JSON."""
    return str(message["content"]).startswith(("{'error'", '{"error"'))


def said(messages: Sequence[Any]) -> list[tuple[str, str]]:
    """Who said what, the words of errors left out. TRL takes the calls out of an assistant's text: left out too."""
    return [(m["role"], "" if m["role"] == "assistant" else "error" if failed(m) else m["content"]) for m in messages]


def compare(of: Side, model: Any, tokenizer: Any, script: Any) -> list[str]:
    """Prints what was compared; what differs."""
    batches = trl_steps(of, model, tokenizer, script)
    theirs = counted(of.calls)
    of.calls.clear()
    rollouts = [r for batch in upslope_replay(of, batches, tokenizer) for r in batch]
    attempts = [a for batch in batches for a in batch]
    mine = counted(of.calls)
    tools = of.tools or [of.environment().guess]
    told = open_task("user", data=str(of.data), **of.settings()).problems("train")[0].template["tools"]
    both = list(zip(attempts, rollouts, strict=True))
    pairs = [(a, r) for a, r in both if not any(c.fault for c in calls_in(tokenizer.decode(a.turns[-1])))]
    plain = [(a, r) for a, r in pairs if not any(map(failed, [m for m in a.messages if m["role"] == "tool"]))]
    same: dict[str, list[tuple[Any, Any]]] = {
        "schemas": [(get_json_schema(t), dict(schema_of(own))) for t, own in zip(tools, told, strict=True)],
        "prompts": [(a.prompt, list(r.prompt)) for a, r in both],
        "messages": [(said(a.messages), said(r.chat)) for a, r in pairs],
        "tokens": [(a.row, list(r.response)) for a, r in plain],
        "rewards": [(a.reward, r.reward) for a, r in pairs],
        "calls": [(theirs, mine)],
    }
    print(f"{of.name}: {len(batches)} steps of TRL, {len(attempts)} attempts, {len(theirs)} calls")
    if len(pairs) < len(both):
        print(f"  {len(both) - len(pairs)} attempts are over for TRL with a call that cannot be read; left out below")
    for what, found in same.items():
        print(f"  {what:9} equal in {sum(a == b for a, b in found)} of {len(found)}")
    return [f"{of.name}: {what}: {a} | {b}" for what, found in same.items() for a, b in found if a != b]


def own_steps(folder: Path, name: str, where: str) -> None:
    """Two steps of upslope's own, with the files as they are."""
    kinds: dict[str, dict[str, Any]] = {
        "calculator": {"tools": [f"{folder}/calculator.py:calculate"], "rewards": [f"{folder}/calculator.py:right"]},
        "room": {"environment": f"{folder}/room.py:Room"},
    }
    files = kinds[name]
    data = str(folder / {"calculator": "calculator", "room": "guessing"}[name])
    task = open_task("user", data=data, max_turns=TURNS, **files)
    sizes: dict[str, Any] = {"steps": STEPS, "problems": PROBLEMS, "sample": {"max_tokens": TOKENS // 4}}
    run = up.train(where, task=task, recipe="grpo", progress=False, eval={"problems": 0}, **sizes)
    for row in run.rows("step"):
        print(
            f"{name}: step {row['step'] + 1} of upslope, reward {row['reward']:.3f}, {row['calls']:g} calls an attempt"
        )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", nargs="?", help="a directory: it draws what is written to the calculator")
    arguments.add_argument("--tools", type=Path, default=TOOLS, help="the examples' folder (default examples/tools)")
    options = arguments.parse_args()
    differences: list[str] = []
    for name in ("calculator", "room"):
        drawn = options.model if name == "calculator" else None
        with tempfile.TemporaryDirectory() as made:
            if drawn is None:
                shape = NewModelSettings(tokenizer=str(options.tools / "words"), layers=1, width=64)
                for part in new_model("new:llama", shape, 0):
                    part.save_pretrained(made)
            where = drawn or made
            model, tokenizer = AutoModelForCausalLM.from_pretrained(where), AutoTokenizer.from_pretrained(where)
            tokenizer.eos_token, tokenizer.response_template = END, RESPONSE_TEMPLATE
            script = None if drawn else SCRIPTS[name]
            differences += compare(side(name, options.tools, []), model, tokenizer, script)
            own_steps(options.tools, name, where)
    print(*differences, sep="\n")
    sys.exit(bool(differences))


if __name__ == "__main__":
    main()
