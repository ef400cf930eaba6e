"""The conversations stage: chat files in; training and held-out conversations out, and what was set aside with why.

Files, one JSON object a line: `train.jsonl` and `held_out.jsonl` (`messages`, `origin`), `set_aside.jsonl` (`origin`,
`reason`, `excerpt`). A conversation is held out by its hash, so that copies of one never fall on both sides; only the
first copy is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from infra.artifacts import Stage, StageContext, StageResult
from infra.errors import SourceError
from infra.storage.local import atomic_file
from tasks.download.sources import AnySource
from tasks.finetuning.config import ConversationsConfig
from tasks.finetuning.layouts import Conversation, conversation_of, turns_of_row
from tasks.finetuning.sources import rows_of_source

TRAIN_FILE, HELD_OUT_FILE, SET_ASIDE_FILE = "train.jsonl", "held_out.jsonl", "set_aside.jsonl"
DUPLICATE = "duplicate of an earlier conversation"
_HASH_SPACE = 1 << 64
_EXCERPT_CHARACTERS = 500
_REPORT_ROWS = 20_000


def run(context: StageContext[ConversationsConfig]) -> StageResult:
    """Read the sources; see `ConversationsConfig` for the choices. Raises SourceError when nothing is usable."""
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(atomic_file(context.directory / name))
            for name in (TRAIN_FILE, HELD_OUT_FILE, SET_ASIDE_FILE)
        }
        sorting = _Sorting(context.config, files)
        for number, source in enumerate(context.config.sources):
            for rows, outcome in enumerate(sorting.sort(source)):
                if rows % _REPORT_ROWS == 0:
                    share = number / len(context.config.sources)
                    context.report(share, f"reading {source.name}: {rows:,} rows, {outcome}", None)
    return _result(context, sorting)


class _Sorting:
    """Puts every row into one of the files and counts, source by source."""

    def __init__(self, config: ConversationsConfig, files: dict[str, BinaryIO]) -> None:
        self._config = config
        self._files = files
        self._seen: set[int] = set()
        self.counts: dict[str, Counter[str]] = {}
        self.reasons: dict[str, Counter[str]] = {}

    def sort(self, source: AnySource) -> Iterator[str]:
        """Sort a source's rows; yields where each one went."""
        self.counts[source.name], self.reasons[source.name] = Counter(), Counter()
        for row in rows_of_source(source, self._config.cache_directory):
            if self._is_full(source.name):
                return
            if row.defect is not None:
                yield self._set_aside(source.name, row.origin, row.defect.defect or "unreadable", row.defect.text)
                continue
            turns = turns_of_row(row.value)
            if turns is None:
                yield self._set_aside(
                    source.name, row.origin, "row is no conversation of a known layout", _json(row.value)
                )
                continue
            conversation, reason = conversation_of(turns)
            if conversation is None or reason is not None:
                # Of a conversation that goes wrong halfway, the rest is set aside and the beginning kept.
                rest = turns[len(conversation.turns) if conversation else 0 :]
                yield self._set_aside(
                    source.name, row.origin, reason or "not used", "\n".join(turn.text for turn in rest)
                )
            if conversation is not None:
                yield self._keep(source.name, row.origin, conversation)

    def _is_full(self, source: str) -> bool:
        limit = self._config.maximum_conversations
        return limit is not None and self.counts[source][TRAIN_FILE] + self.counts[source][HELD_OUT_FILE] >= limit

    def _keep(self, source: str, origin: str, conversation: Conversation) -> str:
        digest = conversation.hash
        if digest in self._seen:
            return self._set_aside(source, origin, DUPLICATE, conversation.turns[0].text)
        self._seen.add(digest)
        name = HELD_OUT_FILE if digest < self._config.held_out_fraction * _HASH_SPACE else TRAIN_FILE
        self.counts[source][name] += 1
        self.counts[source]["answers"] += sum(turn.role == "assistant" for turn in conversation.turns)
        self._write(name, {"origin": f"{source}/{origin}", "messages": conversation.messages})
        return name

    def _set_aside(self, source: str, origin: str, reason: str, text: str) -> str:
        self.counts[source][SET_ASIDE_FILE] += 1
        self.reasons[source][reason] += 1
        excerpt = text[:_EXCERPT_CHARACTERS].encode("utf-8", "replace").decode()
        self._write(SET_ASIDE_FILE, {"origin": f"{source}/{origin}", "reason": reason, "excerpt": excerpt})
        return SET_ASIDE_FILE

    def _write(self, name: str, row: dict[str, Any]) -> None:
        self._files[name].write(orjson.dumps(row) + b"\n")


def read_conversations(path: Path) -> Iterator[list[dict[str, str]]]:
    """The messages of every conversation in one of the stage's files."""
    with path.open("rb") as stream:
        for line in stream:
            yield orjson.loads(line)["messages"]


def _json(value: Any) -> str:
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _result(context: StageContext[ConversationsConfig], sorting: _Sorting) -> StageResult:
    totals: Counter[str] = sum(sorting.counts.values(), Counter())
    reasons: Counter[str] = sum(sorting.reasons.values(), Counter())
    for name, needed in ((TRAIN_FILE, "conversation to train on"), (HELD_OUT_FILE, "held-out conversation")):
        if not totals[name]:
            found = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(5)) or "no rows"
            kept = totals[TRAIN_FILE] + totals[HELD_OUT_FILE]
            raise SourceError(
                f"the sources give no {needed} (kept {kept}; set aside: {found}).",
                "check the sources' `uri` and layout, or change held_out_fraction.",
            )
    rows = [
        {
            "Source": source.name,
            "Licence": source.licence,
            "To train on": sorting.counts[source.name][TRAIN_FILE],
            "Held out": sorting.counts[source.name][HELD_OUT_FILE],
            "Answers": sorting.counts[source.name]["answers"],
            "Set aside": sorting.counts[source.name][SET_ASIDE_FILE],
        }
        for source in context.config.sources
    ]
    aside = [
        {"Source": source, "Reason": reason, "Rows": count}
        for source, counted in sorting.reasons.items()
        for reason, count in counted.most_common()
    ]
    return StageResult(
        metrics={
            "conversations/train": float(totals[TRAIN_FILE]),
            "conversations/held_out": float(totals[HELD_OUT_FILE]),
            "conversations/answers": float(totals["answers"]),
            "conversations/set_aside": float(totals[SET_ASIDE_FILE]),
        },
        tables={"conversations": rows} | ({"set aside": aside} if aside else {}),
        statistics={"unavailable": [gone.model_dump() for gone in context.config.unavailable]},
    )


STAGE: Stage[ConversationsConfig] = Stage("conversations", "conversations", 1, ConversationsConfig, run)
