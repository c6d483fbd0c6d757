"""google-genai: the client of the Gemini API."""

from __future__ import annotations

from google import genai
from google.genai import types
from report import KEY, MODEL, PICTURES, URL, report


def embed(texts, *, key=KEY, model=MODEL):
    client = genai.Client(api_key=key, http_options={"base_url": URL})
    return [item.values for item in client.models.embed_content(model=model, contents=texts).embeddings]


parts = [types.Part.from_bytes(data=picture, mime_type="image/png") for picture in PICTURES]
report("google-genai", embed, [embed(types.Content(parts=[part]))[0] for part in parts])
