"""A penalty for repeated n-grams, made by a factory."""


def get_repetition_penalty_reward(ngram_size: int, max_penalty: float):
    if max_penalty > 0:
        raise ValueError(f"max_penalty {max_penalty} should not be positive")

    def zipngram(text: str):
        words = text.lower().split()
        return zip(*[words[i:] for i in range(ngram_size)])

    def repetition_penalty_reward(completions, **kwargs) -> list[float]:
        rewards = []
        for completion in (c[0]["content"] for c in completions):
            if completion == "" or len(completion.split()) < ngram_size:
                rewards.append(0.0)
                continue
            ngrams, total = set(), 0
            for ng in zipngram(completion):
                ngrams.add(ng)
                total += 1
            rewards.append((1 - len(ngrams) / total) * max_penalty)
        return rewards

    return repetition_penalty_reward


repetition = get_repetition_penalty_reward(2, -1.0)
