"""qdrant-client and qdrant-edge-py: vectors from openai's client in collections in this process.

The first keeps them in Python, the second in the engine of Qdrant's server.
"""

from __future__ import annotations

import tempfile

import qdrant_edge as edge
from openai import OpenAI
from qdrant_client import QdrantClient, models
from report import DATA_URIS, KEY, MODEL, TEXTS, URL, report


def embed(items):
    client = OpenAI(base_url=f"{URL}/v1", api_key=KEY)
    return [item.embedding for item in client.embeddings.create(model=MODEL, input=items).data]


pictures = embed([{"image": uri} for uri in DATA_URIS])
size = len(pictures[0])
database = QdrantClient(":memory:")
database.create_collection("pictures", models.VectorParams(size=size, distance=models.Distance.COSINE))
database.upsert(
    "pictures", [models.PointStruct(id=index, vector=vector) for index, vector in enumerate(pictures)]
)
with tempfile.TemporaryDirectory() as folder:
    vectors = edge.EdgeVectorParams(size=size, distance=edge.Distance.Cosine)
    shard = edge.EdgeShard.create(folder, edge.EdgeConfig(vectors=vectors))
    points = [edge.Point(index, vector, {"name": TEXTS[index]}) for index, vector in enumerate(pictures)]
    shard.update(edge.UpdateOperation.upsert_points(points))
    for index, query in enumerate(embed(TEXTS)):
        assert database.query_points("pictures", query, limit=1).points[0].id == index
        (nearest,) = shard.query(edge.QueryRequest(query=edge.Query.Nearest(query), limit=1))
        assert nearest.id == index
    shard.close()
report("qdrant-client", embed, pictures, cases=())
