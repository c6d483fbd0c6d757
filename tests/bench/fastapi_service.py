"""The service to compare with: FastAPI and open_clip, with the model loaded on import."""

import os

import torch
from fastapi import FastAPI, UploadFile
from PIL import Image
from pydantic import BaseModel

from model_cache.baking.torch_setup import import_open_clip

open_clip = import_open_clip()
model, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32", pretrained=os.environ["CHECKPOINT"])
model.eval()
tokenizer = open_clip.get_tokenizer("ViT-B-32")
app = FastAPI()


class Texts(BaseModel):
    texts: list[str]


@app.post("/embed/text")
def embed_text(body: Texts) -> dict[str, list[list[float]]]:
    with torch.inference_mode():
        vectors = model.encode_text(tokenizer(body.texts), normalize=True)
    return {"embeddings": vectors.tolist()}


@app.post("/embed/image")
def embed_image(file: UploadFile) -> dict[str, list[float]]:
    pixels = preprocess(Image.open(file.file)).unsqueeze(0)
    with torch.inference_mode():
        vector = model.encode_image(pixels, normalize=True)[0]
    return {"embedding": vector.tolist()}
