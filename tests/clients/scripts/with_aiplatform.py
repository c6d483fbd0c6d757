"""google-cloud-aiplatform: PredictionServiceClient over REST, with multimodalembedding's instances."""

from __future__ import annotations

from base64 import b64encode

from google.cloud.aiplatform_v1 import PredictionServiceClient
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value
from report import KEY, PICTURES, URL, report

PUBLISHER = "projects/p/locations/us-central1/publishers/google/models"


def predict(instances, field, *, key=KEY, model="multimodalembedding@001"):
    options = {"api_endpoint": URL, "api_key": key}
    client = PredictionServiceClient(transport="rest", client_options=options)
    reply = client.predict(
        endpoint=f"{PUBLISHER}/{model}",
        instances=[json_format.ParseDict(instance, Value()) for instance in instances],
    )
    return [prediction[field] for prediction in reply.predictions]


def embed(texts, **options):
    return predict([{"text": text} for text in texts], "textEmbedding", **options)


pictures = [{"image": {"bytesBase64Encoded": b64encode(picture).decode()}} for picture in PICTURES]
report("google-cloud-aiplatform", embed, predict(pictures, "imageEmbedding"))
