"""The five of a first notebook: tags counted, an answer read from them, prints on the way."""

import re

SYSTEM = "Answer in <think> and <answer>."


def extract_xml_answer(text: str) -> str:
    return text.split("<answer>")[-1].split("</answer>")[0].strip()


def correctness(prompts, completions, answer, **kwargs) -> list[float]:
    responses = [completion[0]["content"] for completion in completions]
    extracted = [extract_xml_answer(r) for r in responses]
    print("-" * 20, f"Question:\n{prompts[0][-1]['content']}", f"Answer:\n{answer[0]}", f"Response:\n{responses[0]}")
    return [2.0 if r == a else 0.0 for r, a in zip(extracted, answer)]


def count_xml(text: str) -> float:
    count = 0.0
    if text.count("<think>") == 1:
        count += 0.125
    if text.count("</think>") == 1:
        count += 0.125
    if text.count("<answer>") == 1:
        count += 0.125
        count -= len(text.split("</answer>")[-1]) * 0.001
    return count


def xmlcount(completions, **kwargs) -> list[float]:
    return [count_xml(c[0]["content"]) for c in completions]


def soft_format(completions, **kwargs) -> list[float]:
    pattern = r"<think>.*?</think>\s*<answer>.*?</answer>"
    return [0.5 if re.match(pattern, c[0]["content"], re.DOTALL) else 0.0 for c in completions]
