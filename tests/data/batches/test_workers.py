from typing import Any

import pytest
import torch

from finetune.data.batches import workers
from finetune.data.batches.workers import choose_prefetch, choose_workers
from finetune.model.forward import to_device


@pytest.mark.parametrize(
    ("cores", "processes", "images", "count"),
    [
        pytest.param(2, 1, 100_000, 1, id="two cores"),
        pytest.param(16, 1, 100_000, 8, id="no more than help"),
        pytest.param(16, 8, 100_000, 1, id="shared by eight processes"),
        pytest.param(8, 8, 100_000, 0, id="no core to spare"),
        pytest.param(16, 1, 1000, 3, id="few images"),
        pytest.param(16, 1, 200, 0, id="fewer than a worker takes to start"),
        pytest.param(1, 1, 100_000, 0, id="one core"),
    ],
)
def test_workers_follow_from_cores_processes_and_images(
    monkeypatch: pytest.MonkeyPatch, cores: int, processes: int, images: int, count: int
) -> None:
    monkeypatch.setattr(workers, "count_cores", lambda: cores)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    chosen = choose_workers(None, images)
    assert chosen.processes == count
    assert f"{images:,} images" in chosen.reason or f"{cores} cores" in chosen.reason


def test_a_gpu_has_a_worker_where_there_is_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "count_cores", lambda: 1)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert choose_workers(None, 100_000).processes == 1


def test_a_given_number_stays_as_it_is() -> None:
    assert choose_workers(7, 1) == (7, "trainer.dataloader_num_workers")
    assert choose_workers(0, 100_000).processes == 0
    assert choose_prefetch(3, 4) == 3


def test_few_workers_prepare_more_batches_each() -> None:
    assert [choose_prefetch(None, count) for count in (0, 1, 4, 8)] == [None, 8, 2, 2]


@pytest.mark.gpu
def test_a_batch_of_pinned_memory_arrives_whole_on_a_gpu() -> None:
    device = torch.device("cuda")
    batch: Any = {"input_ids": torch.arange(1 << 20).pin_memory(), "ids": ["a"]}
    moved = to_device(batch, device)
    assert moved["ids"] == ["a"]
    assert torch.equal(moved["input_ids"].cpu(), batch["input_ids"])


def test_features_that_are_stored_are_read_without_workers_unless_there_is_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "count_cores", lambda: 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_workers(None, 10**6).processes == 3
    assert choose_workers(None, 10**6, stored=True).processes == 0
    assert choose_workers(2, 10**6, stored=True).processes == 2
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_workers(None, 10**6, stored=True).processes == 3
