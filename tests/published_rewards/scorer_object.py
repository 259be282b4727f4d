"""An object that keeps what it needs and is called."""


class TagScorer:
    def __init__(self, tags, value):
        self.tags, self.value = tags, value
        self.__name__ = "tag_scorer"

    def __call__(self, completions, **kwargs):
        return [self.value * all(tag in c for tag in self.tags) for c in completions]


tag_scorer = TagScorer(("<think>", "</think>"), 0.25)
