"""Snap Video (arXiv 2402.14797) in JAX: text-to-video diffusion with FIT, for TPUs."""

__version__ = "0.1.0.dev0"
