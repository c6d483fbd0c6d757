"""The entrypoints, one per function."""

from clip_embeddings.marks import mark

# The interpreter and functions-framework are loaded.
mark("framework")
