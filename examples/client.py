"""A client of the embedding routes with retries: `python client.py "a cat" "a dog"` (needs requests).

CLIP_URL is the service (http://localhost:8080), CLIP_API_KEY its key, if it has one.
"""

import os
import sys

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

URL = os.environ.get("CLIP_URL", "http://localhost:8080")
BATCH = 64


def make_session() -> requests.Session:
    """A session that tries again when the service starts, is busy (429), or is unreachable for a moment."""
    retry = Retry(total=5, backoff_factor=0.5, status_forcelist=(429, 502, 503, 504), allowed_methods=None)
    session = requests.Session()
    session.mount("http://", HTTPAdapter(max_retries=retry))
    session.mount("https://", HTTPAdapter(max_retries=retry))
    if key := os.environ.get("CLIP_API_KEY"):
        session.headers["X-API-Key"] = key
    return session


def embed_texts(session: requests.Session, texts: list[str]) -> list[list[float]]:
    """A vector for each text. Embedding is idempotent, so that a POST may be repeated."""
    vectors: list[list[float]] = []
    for start in range(0, len(texts), BATCH):
        reply = session.post(f"{URL}/embed/text", json={"texts": texts[start : start + BATCH]}, timeout=90)
        reply.raise_for_status()
        vectors += reply.json()["embeddings"]
    return vectors


if __name__ == "__main__":
    for vector in embed_texts(make_session(), sys.argv[1:]):
        print(len(vector), vector[:4])
