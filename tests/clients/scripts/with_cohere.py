"""cohere: ClientV2."""

from __future__ import annotations

import cohere
from report import DATA_URIS, KEY, MODEL, URL, report


def embed(texts=None, *, key=KEY, model=MODEL, images=None):
    items = {"texts": texts} if images is None else {"images": images}
    reply = cohere.ClientV2(key, base_url=URL).embed(
        model=model,
        input_type="search_document" if images is None else "image",
        embedding_types=["float"],
        **items,
    )
    return reply.embeddings.float_


report("cohere", embed, [embed(images=[uri])[0] for uri in DATA_URIS])
