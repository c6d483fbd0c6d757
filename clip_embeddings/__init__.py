"""CLIP embeddings on a CPU: the library behind the functions."""

__version__ = "0.2.0"
