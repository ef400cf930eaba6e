"""fastText classifiers: language identification, quality, spam, or any other supervised model.

Public surface: `FastTextModel` (inference over `TextBatch`), `read_model` and `write_model` (the files).
"""

from tasks.text.fasttext.format import LABEL_PREFIX, ModelFile, read_model, write_model
from tasks.text.fasttext.model import FastTextModel, Predictions

__all__ = ["LABEL_PREFIX", "FastTextModel", "ModelFile", "Predictions", "read_model", "write_model"]
