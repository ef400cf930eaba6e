"""Our filters inside a datatrove pipeline, run by its own executor."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("datatrove", reason="the `scale` extra is not installed")

from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

import tasks.documents as shards
from tasks.quality import QualityConfig
from tasks.scale_out.document_steps import QualityFilter, ReadDocumentShards

PROSE = (
    "The old lighthouse stood at the end of the road and nobody had lived in it for twenty years.\n"
    "Every morning the keeper of the garden walked down to the river with a basket in her hand.\n"
    "It is not easy to say what they found there, because the letters were lost in the fire.\n"
    "When the train arrived, most of the passengers were asleep and had to be woken by the guard.\n"
    "Nothing about the decision was simple, and those who made it never spoke of it in public.\n"
)
CONTACT = PROSE + "Write to jane.doe@mail.example if you have seen any of them since.\n"
FRENCH = "Le vieux phare se dressait au bout de la route et personne n'y habitait depuis vingt ans.\n" * 4


def test_documents_are_filtered_masked_and_described() -> None:
    documents = [
        Document(text=text, id=str(number), metadata={"source": "web"})
        for number, text in enumerate([PROSE, "short", CONTACT, FRENCH])
    ]
    step = QualityFilter(QualityConfig())
    kept = list(step.run(iter(documents)))
    assert [document.id for document in kept] == ["0", "2"]
    assert "<EMAIL>" in kept[1].text
    assert "jane.doe" not in kept[1].text
    assert kept[1].metadata["masked_items"] == 1
    assert kept[0].metadata["language"] == "en"
    assert documents[1].metadata["reason"] == "too short"
    strict = QualityFilter(QualityConfig(), minimum_quality_score=1.0)
    assert list(strict.run(iter([Document(text=PROSE, id="0")]))) == []


def test_a_pipeline_of_shards_filter_and_datatroves_writers(tmp_path: Path) -> None:
    for shard in range(3):
        texts = [PROSE.replace("twenty", f"{shard}{number}") for number in range(4)] + ["short"]
        documents = [shards.Document(text, "web", f"{shard}/{row}", "CC0") for row, text in enumerate(texts)]
        path = tmp_path / "artifact" / "documents" / f"web-{shard:05d}.parquet"
        shards.write_table(path, shards.documents_table(documents))
    removed = JsonlWriter(str(tmp_path / "removed"), compression=None)
    pipeline = [
        ReadDocumentShards(tmp_path / "artifact"),
        QualityFilter(QualityConfig(), exclusion_writer=removed),
        JsonlWriter(str(tmp_path / "kept"), compression=None),
    ]
    LocalPipelineExecutor(pipeline, tasks=2, workers=2, logging_dir=str(tmp_path / "logs")).run()
    kept = list(JsonlReader(str(tmp_path / "kept")).run())
    gone = list(JsonlReader(str(tmp_path / "removed")).run())
    assert len(kept) == 12
    assert {document.metadata["licence"] for document in kept} == {"CC0"}
    assert [document.metadata["reason"] for document in gone] == ["too short"] * 3
