"""``imgsim tune`` on an open_clip model: batches and int8."""

from pathlib import Path

import pytest

from imgsim.settings import Settings, load_settings
from imgsim.tuning import BATCHES, Layout, thread_candidates, tune
from tests.integration.test_open_clip_int8 import model as model  # a fixture


@pytest.fixture
def settings(model: str, tmp_path: Path) -> Settings:
    embedder = {"model": model, "batch": 3, "precision": "int8", "queue": 1}
    return load_settings(overrides={"data_dir": tmp_path / "data", "embedder": embedder}, environment=False)


async def test_threads_then_batch_then_precision_are_chosen(settings: Settings, photos: list[Path]) -> None:
    said: list[str] = []

    found = await tune(settings, photos, 0.1, said.append)

    threads, batches, precisions = (list(step) for step in found.steps)
    assert threads == [Layout(n, 3) for n in thread_candidates(found.cores)]
    assert [layout.batch for layout in batches] == list(BATCHES)
    assert len({layout.threads for layout in batches}) == 1
    assert precisions[0] in batches
    assert precisions[1] == Layout(precisions[0].threads, 1, "int8")
    assert found.pictures == 64
    assert found.int8.startswith("int8 passed: cosine min 0.99")
    assert f"{precisions[1]} (round 3 of 3)" in said
    assert found.chosen.keys() == {"threads", "batch", "precision"}
    assert Layout(precisions[0].threads, found.chosen["batch"], found.chosen["precision"]) in precisions


async def test_too_few_pictures_leave_the_precision_as_it_is(settings: Settings, photos: list[Path]) -> None:
    found = await tune(settings, photos[:15], 0.1, lambda text: None)

    assert len(found.steps) == 2
    assert found.int8 == "int8 was not judged: that takes 16 different pictures of yours, see --images."
    assert found.chosen.keys() == {"threads", "batch"}
    assert all(layout.precision == "fp32" for step in found.steps for layout in step)
