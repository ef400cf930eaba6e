"""A few continuations, the same for the same model: what the numbers look like as text."""

from __future__ import annotations

from model import GREEDY, SamplingConfig
from model.interface import GenerationSettings, ModelInterface
from tasks.evaluation.config import SampleConfig


def write_samples(model: ModelInterface, config: SampleConfig) -> list[dict[str, str]]:
    """`prompt` and `continuation` of each prompt; a continuation ends at the document's end."""
    sampling = GREEDY
    if config.temperature > 0:
        sampling = SamplingConfig(temperature=config.temperature, seed=config.seed)
    limit = model.info().maximum_context
    prompts = [[model.separator, *model.encode(prompt)] for prompt in config.prompts]
    settings = [
        GenerationSettings(maximum_new_tokens=min(config.new_tokens, limit - len(tokens)), sampling=sampling)
        for tokens in prompts
    ]
    written = model.generate(prompts, settings)
    return [{"prompt": prompt, "continuation": one.text} for prompt, one in zip(config.prompts, written, strict=True)]
