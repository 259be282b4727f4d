"""A sampler of one's own: here one forward pass a token, without any cache. A remote one would send the same requests
elsewhere.

up.train(..., sampler=PlainSampler)
"""

import torch

from upslope.model.distribution import adjusted
from upslope.rollout.base import require_room, to_rollout


class PlainSampler:
    """Satisfies ``upslope.rollout.base.Sampler``; every request by itself."""

    listens = False  # it pauses for no calculator

    def __init__(self, policy):
        self.policy, self.version = policy, 0

    def load(self, weights, version):
        self.version = version  # the policy computes with these very weights

    @torch.no_grad()
    def generate(self, requests, sampling, address, progress=None, finished=None):
        require_room(requests, sampling, self.policy.max_positions)
        rollouts, written = [], 0
        for place, request in enumerate(requests):
            rollouts.append(self.write(request, sampling, address))
            written += len(rollouts[-1].response)
            if progress is not None:
                progress(written, len(rollouts))
            if finished is not None:
                finished(place, rollouts[-1])
        return rollouts

    def write(self, request, sampling, address):
        """Token t is where number t of the request's address falls among the cumulated probabilities."""
        numbers = address.uniforms([(request.problem_id, request.sample)], sampling.max_tokens)[0]
        response, logps = [], []
        while len(response) < sampling.max_tokens and not {*response[-1:]} & {*self.policy.end_ids}:
            logp_V = self.next_logp(request.prompt + tuple(response), len(response), sampling)
            number = torch.tensor(numbers[len(response)], dtype=torch.float64)
            token = int(torch.searchsorted(logp_V.exp().cumsum(0), number).clamp(max=len(logp_V) - 1))
            response.append(int(logp_V.argmax()) if sampling.greedy else token)
            logps.append(0.0 if sampling.greedy else float(logp_V[response[-1]]))
        return to_rollout(request, response, logps, self.policy.end_ids, self.version)

    def next_logp(self, tokens, position, sampling):
        """log of the distribution that the next token is drawn from, float64."""
        with self.policy.as_any_other() as model:
            logits_1V = model(input_ids=torch.tensor([tokens], device=self.policy.device)).logits[:, -1]
        at = torch.tensor([position], device=self.policy.device)
        if sampling.greedy:
            return logits_1V[0].double().log_softmax(0)
        return adjusted(logits_1V, at, sampling, self.policy.end_tensor)[0].double().log_softmax(0)
