"""What every Embedder promises, over all adapters."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from PIL import Image

from imgsim.adapters.embedding import EMBEDDERS
from imgsim.adapters.embedding.checks import unit_rows
from imgsim.core.errors import EmbeddingFailed, Overloaded, SettingsError, TextNotSupported, Unavailable
from imgsim.core.models import Picture
from imgsim.core.ports import Embedder
from imgsim.settings import Embedding, Settings
from tests.processes import ImgsimServer

DATA = Path(__file__).parents[1] / "data" / "classes"
MAKERS = ("colour", "packaged", "open_clip", "remote", "remote_open_clip")


def make(url: str = "local:", **embedder: object) -> Embedder:
    settings = Settings(embedder=Embedding(url=url, **embedder))
    return EMBEDDERS[url.partition(":")[0]](settings)


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where exported models are kept, by all embedders of these tests."""
    return str(tmp_path_factory.mktemp("exports"))


@pytest.fixture(scope="session")
def remote_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An embedder process with the packaged model."""
    with ImgsimServer(tmp_path_factory.mktemp("embedder") / "data", role="embedder") as running:
        yield running.url


@pytest.fixture(scope="session")
def remote_open_clip_url(
    tmp_path_factory: pytest.TempPathFactory, open_clip_folder: Path, exports: str
) -> Iterator[str]:
    environment = {"IMGSIM_EMBEDDER__MODEL": f"local-dir:{open_clip_folder}", "IMGSIM_EMBEDDER__CACHE_DIR": exports}
    folder = tmp_path_factory.mktemp("open_clip_embedder") / "data"
    with ImgsimServer(folder, environment, role="embedder") as running:
        yield running.url


@pytest.fixture(scope="session", params=MAKERS)
def maker(request: pytest.FixtureRequest) -> Callable[..., Embedder]:
    """Makes one more of the same embedder, with settings of its own."""
    if request.param == "colour":
        return lambda **more: make("colour:", **more)
    if request.param == "packaged":
        return lambda **more: make(model="efficientnet-lite0", **more)
    if request.param.startswith("remote"):
        url = request.getfixturevalue(f"{request.param}_url")
        return lambda **more: make(url, **more)
    folder = request.getfixturevalue("open_clip_folder")
    exports = request.getfixturevalue("exports")
    return lambda **more: make(model=f"local-dir:{folder}", cache_dir=exports, **more)


@pytest.fixture(scope="session")
async def embedder(maker: Callable[..., Embedder]) -> AsyncIterator[Embedder]:
    async with maker(threads=2) as opened:
        yield opened


@pytest.fixture(scope="session")
def pictures() -> list[Picture]:
    """Twelve pictures of many shapes, each unlike the others."""
    random = np.random.default_rng(11)
    shapes = [(480, 640), (640, 480), (224, 224), (64, 64), (37, 911), (911, 37), (1, 1), (2, 3), (300, 299)]
    shapes += [(500, 500), (100, 200), (1024, 768)]
    small = [random.integers(0, 256, (4, 4, 3), dtype=np.uint8) for _ in shapes]
    return [
        np.array(Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC))
        for colours, (height, width) in zip(small, shapes, strict=True)
    ]


async def test_says_what_it_is(embedder: Embedder) -> None:
    name, _, revision = embedder.model_id.rpartition("@")
    assert name
    assert revision
    assert embedder.preprocessing
    assert embedder.dimensions > 0
    assert embedder.input_size > 0
    await embedder.ping()


async def test_vectors_are_float32_of_unit_length(embedder: Embedder, pictures: list[Picture]) -> None:
    vectors = await embedder.embed_images(pictures)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(pictures), embedder.dimensions)
    assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


async def test_a_vector_depends_on_its_picture_alone(embedder: Embedder, pictures: list[Picture]) -> None:
    together = await embedder.embed_images(pictures)
    alone = [(await embedder.embed_images([picture]))[0] for picture in pictures]
    backwards = await embedder.embed_images(pictures[::-1])
    assert_allclose(together, alone, atol=1e-6)
    assert_allclose(backwards[::-1], alone, atol=1e-6)
    assert len(np.unique(np.round(together, 4), axis=0)) == len(pictures)


async def test_no_pictures_give_no_vectors(embedder: Embedder) -> None:
    vectors = await embedder.embed_images([])
    assert (vectors.shape, vectors.dtype) == ((0, embedder.dimensions), np.float32)


async def test_many_callers_each_get_their_own(embedder: Embedder, pictures: list[Picture]) -> None:
    expected = await embedder.embed_images(pictures)
    chosen = [[(3 * n + i) % len(pictures) for i in range(n % 3 + 1)] for n in range(50)]
    answers = await asyncio.gather(*(embedder.embed_images([pictures[i] for i in some]) for some in chosen))
    for some, vectors in zip(chosen, answers, strict=True):
        assert_allclose(vectors, expected[some], atol=1e-6)


async def test_a_view_of_a_picture_is_a_picture(embedder: Embedder, pictures: list[Picture]) -> None:
    view = pictures[0][::-1, 10:200]
    assert not view.flags.c_contiguous
    assert_allclose(await embedder.embed_images([view]), await embedder.embed_images([view.copy()]), atol=1e-6)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        b"not an array",
    ],
    ids=["grey", "alpha", "empty", "float", "bytes"],
)
async def test_a_bad_picture_fails_alone(embedder: Embedder, pictures: list[Picture], bad: Picture) -> None:
    calls = [embedder.embed_images([picture]) for picture in (pictures[0], bad, pictures[1])]
    first, failure, last = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(failure, EmbeddingFailed)
    assert "must be (height, width, 3) uint8" in failure.message
    assert_allclose(np.concatenate([first, last]), await embedder.embed_images(pictures[:2]), atol=1e-6)


async def test_opened_again_it_is_the_same(
    embedder: Embedder, maker: Callable[..., Embedder], pictures: list[Picture]
) -> None:
    async with maker(threads=1, batch=1) as again:
        assert again.model_id == embedder.model_id
        assert again.preprocessing == embedder.preprocessing
        assert_allclose(await again.embed_images(pictures), await embedder.embed_images(pictures), atol=1e-6)


async def test_text_is_embedded_or_refused_by_name(embedder: Embedder) -> None:
    if not embedder.supports_text:
        with pytest.raises(TextNotSupported, match=r"ViT-B-32/laion2b_s34b_b79k") as refused:
            await embedder.embed_texts(["a cat"])
        assert embedder.model_id in refused.value.message
        return
    texts = ["a cat", "two dogs on a beach", "", "ein Fahrrad " * 50]
    together = await embedder.embed_texts(texts)
    alone = [(await embedder.embed_texts([text]))[0] for text in texts]
    assert (together.shape, together.dtype) == ((4, embedder.dimensions), np.float32)
    assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    assert_allclose(together, alone, atol=1e-6)
    assert (await embedder.embed_texts([])).shape == (0, embedder.dimensions)


@pytest.mark.parametrize("name", ["packaged", "open_clip"])
async def test_overload_refuses_some_and_answers_the_others(
    name: str, request: pytest.FixtureRequest, pictures: list[Picture], exports: str
) -> None:
    model = "efficientnet-lite0"
    if name == "open_clip":
        model = f"local-dir:{request.getfixturevalue('open_clip_folder')}"
    async with make(model=model, threads=1, batch=2, queue=4, cache_dir=exports) as embedder:
        calls = [embedder.embed_images([pictures[0]]) for _ in range(30)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, Overloaded)]
        assert refused
        assert len(refused) < 30
        assert all(isinstance(answer, np.ndarray | Overloaded) for answer in answers)
        assert len(await embedder.embed_images([pictures[0]])) == 1


@pytest.mark.parametrize("model", ["efficientnet-lite0", "ViT-B-32/laion2b_s34b_b79k"])
async def test_before_it_is_open_it_is_unavailable(model: str) -> None:
    embedder = make(model=model)
    with pytest.raises(Unavailable):
        await embedder.ping()
    with pytest.raises(Unavailable):
        await embedder.embed_images([np.zeros((8, 8, 3), np.uint8)])


@pytest.mark.parametrize("row", [np.zeros(4), np.array([1, np.nan, 0, 0]), np.array([1, np.inf, 0, 0])])
def test_a_vector_without_a_direction_is_refused(row: NDArray[np.float64]) -> None:
    with pytest.raises(EmbeddingFailed, match="some-model@1 gave a vector that is zero or not finite"):
        unit_rows(np.stack([np.ones(4), row]).astype(np.float32), "some-model@1")


def test_an_unknown_model_is_a_settings_error_with_the_valid_forms() -> None:
    with pytest.raises(
        SettingsError, match=r"'resnet50' names no model.*efficientnet-lite0.*ARCHITECTURE/PRETRAINED_TAG"
    ):
        make(model="resnet50")


async def test_the_packaged_model_computes_what_its_note_says(pictures: list[Picture]) -> None:
    """Against a plain computation of ``weights/README.md``, on photographs."""
    import onnxruntime

    import imgsim.adapters.embedding as package

    photographs = [np.array(Image.open(path).convert("RGB")) for path in sorted(DATA.glob("*/*.jpg"))[::5][:12]]
    assert photographs
    weights = Path(package.__file__).parent / "weights" / "efficientnet_lite0.onnx"
    session = onnxruntime.InferenceSession(str(weights), providers=["CPUExecutionProvider"])
    expected = []
    for photograph in photographs + pictures:
        resized = Image.fromarray(photograph).resize((224, 224), resample=Image.Resampling.BICUBIC)
        pixels = np.array(resized, dtype=np.float64) / 127.5 - 1
        channels = [pixels[:, :, channel] for channel in range(3)]
        embedding, _, _ = session.run(["y", "gem", "logits"], {"x": np.array([channels], dtype=np.float32)})
        expected.append(embedding[0] / np.sqrt((embedding[0].astype(np.float64) ** 2).sum()))
    async with make() as embedder:
        assert (embedder.model_id, embedder.dimensions, embedder.input_size) == ("efficientnet-lite0@1", 1280, 224)
        vectors = await embedder.embed_images(photographs + pictures)
    cosines = (vectors * np.array(expected, np.float32)).sum(1)
    # Beside the note's Pillow, imgsim.resize rounds differently, which shows in pictures of noise.
    assert cosines[: len(photographs)].min() > 0.9995
    assert cosines.min() > 0.995


async def test_close_colours_are_close() -> None:
    red, dark_red, blue = (np.full((50, 70, 3), colour, np.uint8) for colour in ((250, 0, 0), (200, 9, 9), (0, 0, 250)))
    async with make("colour:") as embedder:
        scores = (await embedder.embed_images([dark_red, blue])) @ (await embedder.embed_images([red]))[0]
    assert scores[0] > 0.99
    assert scores[1] < 0.01


def test_the_package_imports_no_model_library() -> None:
    libraries = {"torch", "open_clip", "onnxruntime", "PIL"}
    code = f"import sys, imgsim.adapters.embedding; print(sorted({libraries} & {{*sys.modules}}))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
