"""Every function survives its worst legal requests, eight at once, in the memory that it is deployed with."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clip_embeddings.engine.manifest import load_manifest
from clip_embeddings.functions import find_function
from clip_embeddings.paths import MODEL_CACHE
from clip_embeddings.storage.factory import open_bucket
from deploy.sizing import MEMORY, TYPICAL, memory_setting
from tests.support.buckets import write_object
from tests.support.confined import confined
from tests.support.hostile_pictures import PICTURES, hostile_picture
from tests.support.serving import Server, serving, worker

AT_ONCE = 8
# Seconds: eight times 256 long texts are minutes of work for one slow CPU.
PATIENCE = 300
# As many CPUs as deploy.sh gives a function, and two, which take more memory.
CPUS = (1, 2)
# Statuses of requests that were served, refused for what they hold, or told to come back.
EXPECTED = {200, 202, 400, 413, 422, 429}

# The name of the full-size model.
BAKED = "vit-b-32-int8"

Send = Callable[[Server], int]


def post(path: str, body: bytes, media: str = "application/json") -> Send:
    """A request; gives the status of its reply."""
    headers = {"Content-Type": media}
    return lambda server: server.post(path, data=body, headers=headers, timeout=PATIENCE).status_code


def as_json(path: str, value: object) -> Send:
    return post(path, json.dumps(value, ensure_ascii=False).encode())


def as_file(data: bytes) -> Send:
    files = {"file": ("a.jpg", data)}
    return lambda server: server.post("/embed/image", files=files, timeout=PATIENCE).status_code


def large_bodies(path: str, field: str) -> list[Send]:
    """Bodies as large as they may be, of what takes most memory once it is parsed."""
    size = 32 * 2**20 - 1000
    return [
        as_json(path, {field: ["\N{GRINNING FACE}" + "x" * (size // 8)] * 8}),
        as_json(path, {field: ["\N{GRINNING FACE}" * (size // 4)]}),
        post(
            path, b'{"' + field.encode() + b'": [' + b"1," * 400_000 + b"1]" + b" " * (size - 900_000) + b"}"
        ),
        post(path, b'{"' + field.encode() + b'": ["' + b"\\u4e00" * (size // 6) + b'"]}'),
    ]


def texts(path: str, field: str = "texts") -> list[Send]:
    chinese = [chr(0x4E00 + number) * 10_000 for number in range(256)]
    words = [f"{number} " + "a photo of a red heart " * 16 for number in range(256)]
    return [as_json(path, {field: chinese}), as_json(path, {field: words}), *large_bodies(path, field)]


def images() -> list[Send]:
    pictures = {name: hostile_picture(name) for name in PICTURES}
    encoded = {name: base64.b64encode(data).decode() for name, data in pictures.items()}
    noise = base64.b64encode(b"\xff\xd8\xff" + bytes(20 * 2**20 - 100)).decode()
    return [
        *(as_json("/embed/image", {"images": [one] * 20}) for one in encoded.values() if len(one) < 10_000),
        *(post("/embed/image", data, "image/jpeg") for data in pictures.values()),
        as_json("/embed/image", {"images": list(encoded.values())}),
        as_json("/embed/image", {"images": [noise]}),
        as_file(b"\xff\xd8\xff" + bytes(20 * 2**20 - 100)),
        *large_bodies("/embed/image", "images"),
    ]


# The worst requests of each function that answers HTTP.
WORST: Mapping[str, Callable[[], Sequence[Send]]] = {
    "embed_text": lambda: texts("/embed/text"),
    "embed_image": images,
    "embed_mixed": lambda: [*texts("/embed/mixed"), *images_in("/embed/mixed")],
    "search": lambda: [*large_bodies("/search", "text"), *images_in("/search", as_list=False)],
    "jobs": lambda: large_bodies(f"/api/tasks/text-embedding/batched/{BAKED}/jobs", "text"),
    "gateway": lambda: [*texts("/embed/text"), *images()],
}


def images_in(path: str, *, as_list: bool = True) -> list[Send]:
    """Requests with pictures in the fields of a function for several kinds of items."""
    values = [base64.b64encode(hostile_picture(name)).decode() for name in PICTURES]
    if as_list:
        return [as_json(path, {"images": [value] * 20}) for value in values if len(value) < 10_000]
    return [as_json(path, {"image": value}) for value in values]


def deployed_memory(name: str, cpus: int) -> str:
    """What deploy.sh gives a function of an int8 ViT-B/32."""
    function = find_function(name)
    return memory_setting(function, [TYPICAL[tower] for tower in function.towers], cpus)


def survives(name: str, sends: Sequence[Send], folder: Path, model: str, cpus: int, **settings: str) -> None:
    """Send each request eight times at once; the process that began to serve must serve to the end."""
    setting = deployed_memory(name, cpus)
    statuses: dict[int, int] = {}
    with (
        confined(MEMORY[setting]) as prefix,
        serving(
            name,
            folder / "log",
            prefix=prefix,
            MODEL=model,
            MEMORY_LIMIT=setting,
            MODEL_THREADS=str(cpus),
            JOBS_URL=(folder / "jobs").as_uri(),
            INDEX_URL=f"sqlite://{folder}/index.sqlite",
            **{"BUCKET_URL": (folder / "photos").as_uri(), **settings},
        ) as server,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        pid = worker(server)
        for send in sends:
            for status in pool.map(send, [server] * AT_ONCE):
                statuses[status] = statuses.get(status, 0) + 1
        assert worker(server) == pid, (folder / "log").read_text()[-2000:]
        if find_function(name).is_http:
            assert server.get("/health").status_code == 200
    print(f"{name} in {setting}, {cpus} CPUs: {statuses}")
    assert statuses.keys() <= EXPECTED, statuses


def test_functions_are_deployed_with_little_memory() -> None:
    assert deployed_memory("embed_text", 1) == "512Mi"
    assert deployed_memory("embed_image", 1) == "1Gi"


@pytest.mark.parametrize("name", [pytest.param("embed_text", marks=pytest.mark.full), "embed_image"])
def test_the_worst_requests_at_once_with_the_bundled_model(name: str, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    sends = WORST[name]()
    # The first and the last, because each takes seconds.
    survives(name, [sends[0], sends[-1]], tmp_path, str(MODEL_CACHE / "demo"), 1)


@pytest.mark.full
@pytest.mark.parametrize("cpus", CPUS)
@pytest.mark.parametrize("name", WORST)
def test_the_worst_requests_at_once_with_a_full_size_model(name: str, cpus: int, tmp_path: Path) -> None:
    from tests.bench import weights

    (tmp_path / "photos").mkdir()
    survives(name, WORST[name](), tmp_path, str(weights.baked("int8")), cpus)


@pytest.mark.full
def test_uploads_of_the_worst_pictures_at_once(tmp_path: Path) -> None:
    from tests.bench import weights

    photos = tmp_path / "photos"
    photos.mkdir()
    bucket = open_bucket(photos.as_uri(), externally_written=True)
    sends = [
        upload(photos.as_uri(), name, write_object(bucket, f"{name}.jpg", hostile_picture(name)))
        for name in PICTURES
    ]
    survives(
        "on_upload", sends, tmp_path, str(weights.baked("int8")), 1, FUNCTION_SIGNATURE_TYPE="cloudevent"
    )


def upload(bucket: str, name: str, generation: int) -> Send:
    """The event of a picture that was written."""
    data = {"bucket": bucket, "name": f"{name}.jpg", "generation": str(generation), "size": "1000"}

    def send(server: Server) -> int:
        headers = {
            "ce-specversion": "1.0",
            "ce-id": str(uuid.uuid4()),
            "ce-type": "google.cloud.storage.object.v1.finalized",
            "ce-source": "//storage.googleapis.com/projects/_/buckets/photos",
            "ce-time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        return server.post("/", json=data, headers=headers, timeout=PATIENCE).status_code

    return send


def test_the_sizes_of_a_typical_model_are_those_of_a_baked_one() -> None:
    pytest.importorskip("onnxruntime")
    manifest = load_manifest(MODEL_CACHE / "demo", ("text", "image"))
    # The bundled model is smaller, so that what holds for the typical one holds for it.
    for tower, size in TYPICAL.items():
        assert sum(file.bytes for file in manifest.towers[tower].files) < size
