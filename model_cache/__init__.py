"""Baked models, and the commands that make them."""

# Imported first, because it turns ONNX Runtime's telemetry off.
import clip_embeddings  # noqa: F401
