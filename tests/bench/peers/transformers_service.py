"""FastAPI and transformers, with the model loaded on import."""

import os

import torch
from fastapi import FastAPI, UploadFile
from PIL import Image
from pydantic import BaseModel
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

folder = os.environ["MODEL"]
model = CLIPModel.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
processor = CLIPImageProcessor.from_pretrained(folder)
app = FastAPI()


class Texts(BaseModel):
    texts: list[str]


def normalized(outputs):
    # transformers 5 returns an object that holds the projection, version 4 the projection itself.
    vectors = getattr(outputs, "pooler_output", outputs)
    return torch.nn.functional.normalize(vectors, dim=-1).tolist()


@app.post("/embed/text")
def embed_text(body: Texts) -> dict[str, list[list[float]]]:
    tokens = tokenizer(body.texts, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        return {"embeddings": normalized(model.get_text_features(**tokens))}


@app.post("/embed/image")
def embed_image(file: UploadFile) -> dict[str, list[float]]:
    pixels = processor(Image.open(file.file).convert("RGB"), return_tensors="pt")
    with torch.inference_mode():
        return {"embedding": normalized(model.get_image_features(**pixels))[0]}
