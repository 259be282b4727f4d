"""vLLM's server as the sampler of a run: started, given weights, and checked (docs/vllm.md)."""
