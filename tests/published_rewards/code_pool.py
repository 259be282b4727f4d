"""Answers checked in processes of their own."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor


def check(pair):
    text, answer = pair
    return float(answer in text)


def parallel_check(completions, answer, **kwargs):
    texts = [c[0]["content"] for c in completions]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(check, zip(texts, answer)))
