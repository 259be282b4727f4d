"""Positions that are recorded and replayed draw the same attempts, token for token; and what cannot be is said."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from naive import HERE, flat, policy
from recorded import RecordedGraph
from tiny import drawn, problems

from upslope.model import decoder
from upslope.model.attention import planned
from upslope.model.hf import use_attention
from upslope.model.known import NeverDrawn
from upslope.rollout import local
from upslope.rollout.base import Request
from upslope.rollout.captured import Captured, Steady, graphs_of
from upslope.rollout.local import LocalSampler
from upslope.types import Sampling

HOW = [
    (Sampling(min_tokens=6, max_tokens=24), 8, 0),
    (Sampling(1.3, max_tokens=24), 5, 3),
    (Sampling(0.8, top_k=9, top_p=0.9, max_tokens=20), 16, 5),
    (Sampling(temperature=0, min_tokens=9, max_tokens=20), 8, 6),
]
"""Each with how often it is looked, and how many rows there are at once."""
SHORT, ALL = Sampling(max_tokens=20), Sampling(min_tokens=20, max_tokens=20)


def subject_of():
    subject = policy(dtype=torch.float32, num_hidden_layers=1)
    subject.native = False
    return subject


@pytest.fixture(autouse=True)
def few_columns(monkeypatch):
    """Several shapes in few tokens."""
    monkeypatch.setattr(local, "COLUMNS", 8)
    monkeypatch.setattr(RecordedGraph, "made", [])


def recorded(subject, sampling, every=8, **settings):
    sampler = LocalSampler(subject, look_every=every, graphs=lambda device: RecordedGraph, **settings)
    return flat(drawn(subject, problems(4), 3, sampling, HERE, by=sampler))


def plainly(subject, sampling, every=8, **settings):
    return flat(drawn(subject, problems(4), 3, sampling, HERE, look_every=every, **settings))


def told(rollouts):
    return [(r.response, r.ended, r.mask, r.logp) for r in rollouts]


@pytest.mark.parametrize(("sampling", "every", "rows"), HOW, ids=str)
def test_replayed_positions_draw_the_same_attempts(sampling, every, rows):
    """As those that are run one by one on the same device: while rows leave, others begin, and columns grow."""
    subject = subject_of()
    expected = plainly(subject, sampling, every, max_rows=rows)
    assert told(recorded(subject, sampling, every, max_rows=rows)) == told(expected)
    replays = [graph.replays for graph in RecordedGraph.made]
    assert len(replays) > 2 and sum(replays) > 15 and min(replays) > 0


def test_weights_that_come_meanwhile_are_those_of_the_next_replay():
    """They are written where the old ones lay, as ``Policy.take`` does."""
    subject, other = subject_of(), policy(seed=3, dtype=torch.float32, num_hidden_layers=1)

    def sampled(graphs):
        looks = []

        def renewed():
            looks.append(1)
            if len(looks) == 3:
                sampler.load(other.weights(), 1)
            return len(looks) == 3

        held = {name: weight.detach().clone() for name, weight in subject.weights().items()}
        sampler = LocalSampler(subject, look_every=6, renewed=renewed, graphs=graphs)
        made = flat(drawn(subject, problems(2), 2, ALL, HERE, by=sampler))
        subject.take(held)
        return made

    found, expected = (sampled(graphs) for graphs in (lambda device: RecordedGraph, graphs_of))
    assert told(found) == told(expected)
    assert {r.versions[0] for r in found} == {0} and {r.versions[-1] for r in found} == {1}
    assert RecordedGraph.made


def frozen_column(self, token_N, columns):
    """Where the next token goes, taken from what the host knows."""
    column = self._num_advances - 1
    at = torch.tensor([begin + column for begin in self._begin])
    self._column_N.copy_(at)
    return COMPUTE(self, token_N, columns)


def moved_column(self, token_N, columns):
    """In a tensor of its own every time."""
    self._cache.open_columns(self._column_N, columns)
    with planned(cache=self._cache):
        call = {"input_ids": token_N[:, None], "position_ids": self._column_N[:, None]}
        logits = self._model(**call, use_cache=False).logits[:, 0]
    self._column_N = (self._column_N + 1).clamp(max=self._cache.num_columns - 1)
    return logits


COMPUTE = decoder.SharedPromptDecoder.compute


@pytest.mark.parametrize("planted", [frozen_column, moved_column])
def test_a_value_that_python_holds_would_be_seen(planted, monkeypatch):
    """The defects do no harm to steps that are not recorded, and others to those that are."""
    subject = subject_of()
    expected = told(plainly(subject, ALL))
    assert told(recorded(subject, ALL)) == expected
    monkeypatch.setattr(decoder.SharedPromptDecoder, "compute", planted)
    assert told(plainly(subject, ALL)) == expected
    assert told(recorded(subject, ALL)) != expected


def test_a_model_that_looks_at_the_host_is_run_as_it_is_and_that_is_said_once():
    subject, lines = subject_of(), []
    subject.budgets.say = lines.append
    looks = []
    subject.model.get_input_embeddings().register_forward_hook(
        lambda module, args, out: looks.append(float(out.sum())) if args[0].shape[-1] == 1 else None
    )
    sampler = LocalSampler(subject, look_every=8, graphs=lambda device: RecordedGraph)
    expected = told(plainly(subject, SHORT))
    for _ in range(2):
        assert told(flat(drawn(subject, problems(4), 3, SHORT, HERE, by=sampler))) == expected
    assert lines == [
        "sampling launches every operation anew, which is slower: a step of this model cannot be recorded "
        "(RuntimeError: operation not permitted when stream is capturing)"
    ]
    assert len(RecordedGraph.made) == 1 and len(looks) > 20


def test_what_moves_from_token_to_token_is_not_recorded():
    subject = policy(dtype=torch.float32)
    assert subject.native and not isinstance(subject.decoder(2, 3), Steady)
    recorded(subject, SHORT)
    plain = subject_of()
    use_attention(plain.model, "sdpa")
    recorded(plain, SHORT, packed=False)
    shared_out = subject_of()
    shared_out.computes_in = torch.float32
    recorded(shared_out, SHORT)
    assert RecordedGraph.made == [] and graphs_of(torch.device("cpu")) is None


def test_shapes_are_recorded_at_their_second_step_and_again_where_anything_moved():
    held, seen = [torch.zeros(2), torch.ones(3)], []
    captured = Captured(RecordedGraph, seen.append)

    def step(columns):
        held[0].add_(held[1][0] * columns)

    def ran(*columns):
        captured.look(held)
        for number in columns:
            captured.run(step, number)
        return [graph.replays for graph in RecordedGraph.made], float(held[0][0])

    assert ran(64, 64, 64) == ([2], 3 * 64.0)
    assert ran(64, 128, 64, 128) == ([4, 1], 5 * 64.0 + 2 * 128)
    held[1] = torch.full((3,), 2.0)
    assert ran(64, 64) == ([4, 1, 1], 9 * 64.0 + 2 * 128)
    held[0] = held[0][:1].clone()
    assert ran(64) == ([4, 1, 1], 11 * 64.0 + 2 * 128)
    assert seen == []


def test_ids_that_are_never_drawn_are_sent_to_the_device_once():
    never = NeverDrawn(torch.tensor([1, 3]), 6)
    there = torch.zeros(2, 6, device="meta")
    never.ban_(there)
    first = never.ids
    never.ban_(there)
    assert first.device.type == "meta" and never.ids is first


def test_later_turns_are_replayed_like_whole_attempts():
    """Rows that begin at a token of their own, and are cut before others."""
    subject, sampling = subject_of(), Sampling(max_tokens=20)
    prompts = [subject.renderer.prompt_ids(p.messages) for p in problems(6)]
    spans = ((0, 0), (7, 0), (3, 11), (0, 5), (12, 19), (19, 0))
    requests = [
        Request(f"p/{i}", 0, (*prompt, *range(5, 5 + begin)), begin=begin, end=end)
        for i, (prompt, (begin, end)) in enumerate(zip(prompts, spans, strict=True))
    ]
    for rows in (0, 2):
        how = {"look_every": 8, "max_rows": rows}
        expected = LocalSampler(subject, **how).generate(requests, sampling, HERE)
        found = LocalSampler(subject, **how, graphs=lambda device: RecordedGraph).generate(requests, sampling, HERE)
        assert told(found) == told(expected)
    assert RecordedGraph.made


class Streams:
    """What a CUDA graph asks of torch, without a device; like torch, recording that fails stays on its own stream."""

    def __init__(self):
        self.now, self.given = "outer", []

    @contextmanager
    def graph(self, graph, **how):
        assert how.keys() <= inspect.signature(GRAPH.__init__).parameters.keys()
        self.given.append((graph, how))
        self.now = how["stream"]
        yield
        self.now = "outer"


GRAPH = torch.cuda.graph


def test_a_recording_that_fails_leaves_the_stream_it_was_on(monkeypatch):
    streams, stream = Streams(), SimpleNamespace(device=torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: "a graph")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: streams.now)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: setattr(streams, "now", stream))
    monkeypatch.setattr(torch.cuda, "graph", streams.graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "a pool")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    seen, make = [], graphs_of(stream.device)
    make().capture(lambda: seen.append(streams.now))
    assert (seen, streams.now) == ([stream], "outer")
    for _ in range(2):  # the lock is free again, too
        with pytest.raises(ZeroDivisionError):
            make().capture(lambda: 1 / 0)
        assert streams.now == "outer"
    how = {"pool": "a pool", "stream": stream, "capture_error_mode": "thread_local"}
    assert streams.given == [("a graph", how)] * 3
