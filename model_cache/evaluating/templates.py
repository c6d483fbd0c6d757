"""The prompts of zero-shot classification: what the text tower is asked about each class."""

from __future__ import annotations

# The seven templates that OpenAI chose for ImageNet out of 80, as good as all of them for CLIP: github.com/
# openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet.ipynb.
TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
