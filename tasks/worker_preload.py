"""What the data stages' workers have loaded before they are forked: modules, compiled loops, models, databases.

Imported by name in the fork server (see `tasks.sharded_work`), one clean process a run; each worker of
each stage then starts in milliseconds instead of seconds.
"""

from __future__ import annotations

from contextlib import suppress

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

import tasks.download.stage
import tasks.tokenization.stage  # noqa: F401 - loaded for the workers
from infra.errors import PipelineError
from tasks.deduplication import SketchSettings, find_duplicates
from tasks.quality import QualityConfig
from tasks.quality.config import UNRULED, SourceSettings
from tasks.quality.judgement import judge
from tasks.text import TextBatch

_SENTENCES = (
    "The old lighthouse stood at the end of the road and nobody had lived in it for twenty years.\n",
    "Every morning the keeper of the garden walked down to the river with a basket in her hand.\n",
    "It is not easy to say what they found there: write to jane.doe@mail.example if you know it.\n",
)


def _use_everything_once() -> None:
    """Run two texts through the filters and the duplicate search: what is loaded lazily is loaded now."""
    text = "".join(_SENTENCES) * 4
    texts = [text, text.replace("twenty", "thirty", 1)]
    lenient = QualityConfig(
        rule_sets={"any": UNRULED},
        default_settings=SourceSettings(rules="any", minimum_language_probability=0.0),
    )
    judge(pa.chunked_array([texts]), pa.chunked_array([["web", "web"]]), {}, lenient)
    find_duplicates(TextBatch.from_texts(texts), SketchSettings(5, 128, 25, 5, 1), threshold=0.5, small_bucket=64)


# What is wrong here (a missing model, say) is wrong in the work too, and is said there.
with suppress(PipelineError):
    _use_everything_once()
