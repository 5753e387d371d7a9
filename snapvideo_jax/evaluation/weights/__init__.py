"""Weights of the metric networks: published checkpoints are read and converted."""
