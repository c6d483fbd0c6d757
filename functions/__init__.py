"""The entrypoints, one per function."""

import os

from clip_embeddings.marks import mark

# The interpreter and functions-framework are loaded.
mark("framework")

# NumPy's linear algebra starts a thread per CPU when NumPy is imported, which then wait for work by spinning.
# The functions multiply matrices in ONNX Runtime; what NumPy multiplies is limited by memory, not by CPUs.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
