"""Values as they come."""


def ends_well(completions, **kwargs):
    for completion in completions:
        yield 1.0 if completion[0]["content"].rstrip().endswith("</answer>") else 0
