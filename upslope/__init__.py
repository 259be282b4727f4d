"""Reinforcement learning of language models with checkable rewards: one loop, a recipe of slots."""

__version__ = "0.1.0"
