"""Measurements: how good a model is, what a step costs, how the recipes compare."""
