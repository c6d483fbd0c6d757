"""CLIP embeddings on a CPU: the library behind the functions."""

import os

__version__ = "0.2.0"

# ONNX Runtime's packages send events about processes and models to Microsoft, unless this is set before they
# are imported: https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md. For that they also start a
# thread, which a fork would lose.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
