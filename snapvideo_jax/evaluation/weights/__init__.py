"""Weights of the metric networks: read from the files of others, and converted."""
