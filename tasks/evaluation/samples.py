"""A few continuations, the same for the same model: what the numbers look like as text."""

from __future__ import annotations

from tokenizers import Tokenizer

from model import GREEDY, HybridLM, SamplingConfig, generate
from tasks.evaluation.config import SampleConfig


def write_samples(model: HybridLM, tokenizer: Tokenizer, separator: int, config: SampleConfig) -> list[dict[str, str]]:
    """`prompt` and `continuation` of each prompt; a continuation ends at the document's end."""
    sampling = GREEDY
    if config.temperature > 0:
        sampling = SamplingConfig(temperature=config.temperature, seed=config.seed)
    samples = []
    for prompt in config.prompts:
        tokens = [separator, *tokenizer.encode(prompt, add_special_tokens=False).ids]
        room = model.config.maximum_context - len(tokens)
        (new,) = generate(model, tokens, min(config.new_tokens, room), sampling, stop_tokens=(separator,))
        samples.append({"prompt": prompt, "continuation": tokenizer.decode(new, skip_special_tokens=True)})
    return samples
