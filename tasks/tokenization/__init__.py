"""Tokenization: documents to memory-mapped token shards in Megatron's layout.

Public surface: `STAGE`, `TokenizationConfig`, `resolve_tokenizer`, `TokenShard`, `TokenDataset`,
`load_tokenizer`, `TOKENIZER_FILE`.
"""

from tasks.tokenization.config import TokenizationConfig
from tasks.tokenization.stage import STAGE, TOKENIZER_FILE
from tasks.tokenization.token_shards import TokenDataset, TokenShard
from tasks.tokenization.tokenizer import LoadedTokenizer, load_tokenizer, resolve_tokenizer

__all__ = [
    "STAGE",
    "TOKENIZER_FILE",
    "LoadedTokenizer",
    "TokenDataset",
    "TokenShard",
    "TokenizationConfig",
    "load_tokenizer",
    "resolve_tokenizer",
]
