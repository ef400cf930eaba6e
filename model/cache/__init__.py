"""What a model remembers of sequences between calls: keys and values, recurrent states, convolution inputs."""

from model.cache.memory import Cache, CacheSizes, LayerMemory
from model.cache.snapshots import DEFAULT_SNAPSHOTS, NO_SNAPSHOTS, Snapshot, SnapshotPolicy

__all__ = ["DEFAULT_SNAPSHOTS", "NO_SNAPSHOTS", "Cache", "CacheSizes", "LayerMemory", "Snapshot", "SnapshotPolicy"]
