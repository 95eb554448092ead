"""infinity-emb on the same photographs, as a peer: an embedding server, which neither stores nor indexes.

Its dependencies do not fit imgsim's, so it lives in an environment of its own, named by ``--infinity PYTHON``::

    python3 -m venv infinity && infinity/bin/pip install 'infinity-emb[torch,vision,server]==0.0.78' aiohttp
"""

import asyncio
import base64
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.benchmarks.load import json_request, send_all
from tests.benchmarks.photographs import fresh
from tests.benchmarks.tables import Row
from tests.servers import free_port

ARCHITECTURE = "ViT-B-32"
"""As open_clip names what the defaults of transformers' CLIPConfig are."""

_WARMING = 8
_SECONDS_TO_START = 120.0
_MAKE_MODEL = """
import json, sys
from pathlib import Path
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizerFast

folder = Path(sys.argv[1])
words, merges = folder / "vocab.json", folder / "merges.txt"
words.write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2, "a</w>": 3}))
merges.write_text("#version: 0.2\\n")
torch.manual_seed(1)
CLIPModel(CLIPConfig()).save_pretrained(folder)
tokenizer = CLIPTokenizerFast(str(words), str(merges))
CLIPProcessor(image_processor=CLIPImageProcessor(), tokenizer=tokenizer).save_pretrained(folder)
"""
"""Random weights, and a tokenizer of two words: nothing is asked of a model hub."""


def measure(python: Path, cache: Path, photographs: Sequence[bytes], count: int, clients: int) -> Row:
    model = _model(python, cache)
    with _running(python, model, cache / "infinity.log") as url:
        asyncio.run(send_all(url, islice(_requests(url, model, photographs, "warm"), _WARMING), 2))
        requests = islice(_requests(url, model, photographs, "measured"), count)
        found = asyncio.run(send_all(url, requests, clients))
    return {
        "infinity_per_second": count / found.elapsed,
        **found.percentiles("infinity"),
        "infinity_statuses": found.statuses,
    }


def _model(python: Path, cache: Path) -> Path:
    folder = cache / "infinity-clip"
    if not (folder / "preprocessor_config.json").exists():  # written last
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([python, "-c", _MAKE_MODEL, folder], check=True, env=_environment())
    return folder


@contextmanager
def _running(python: Path, model: Path, log: Path) -> Iterator[str]:
    """The URL of a server that answers."""
    port = free_port()
    command = [
        str(python.with_name("infinity_emb")),
        "v2",
        "--model-id",
        str(model),
        "--engine",
        "torch",
        "--device",
        "cpu",
    ]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=out,
            stderr=out,
            env=_environment(),
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_healthy(process, url, log)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _SECONDS_TO_START
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError(f"infinity-emb did not start:\n{log.read_text(errors='replace')[-2000:]}")


def _requests(url: str, model: Path, photographs: Sequence[bytes], name: str) -> Iterator[bytes]:
    host = urlsplit(url).netloc
    for photo in fresh(photographs, name):
        picture = f"data:image/jpeg;base64,{base64.b64encode(photo).decode()}"
        body = json.dumps({"model": model.name, "input": [picture], "modality": "image"})
        yield json_request(host, "/embeddings", body.encode())


def _environment() -> Mapping[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
