"""Ten lines of Python: train the pocket model, look at what it wrote, measure it.

python examples/first_run.py
"""

import upslope as up

task = up.tasks.pocket()  # up.tasks.gsm8k("gsm8k/"), or any object with problems() and score()
run = up.train("pocket", task=task, recipe=up.GRPO, steps=20)  # a name, a path, or (model, tokenizer)

rewards = [row["reward"] for row in run.rows("step")]  # the journal, as rows
print(f"mean reward {rewards[0]:.2f} -> {rewards[-1]:.2f}")

best = max(run.rollouts(step=19), key=lambda attempt: attempt["reward"])  # every attempt of a step, with its tokens
print(best["prompt_text"], best["response_text"], sep="\n")

print(up.evaluate(run.model, task, samples=8, problems=64))
