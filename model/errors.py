"""What can go wrong in the model package, each with a message that names the field or file and the fix."""


class ModelError(Exception):
    """Any failure of the model package."""


class ConfigurationError(ModelError, ValueError):
    """A model configuration that cannot be built; raised inside pydantic it becomes a validation error."""


class CheckpointError(ModelError):
    """A checkpoint directory that is missing, incomplete, damaged or of another model."""


class CacheError(ModelError):
    """A generation cache used with another batch, model or mode than it was made for."""


class GenerationError(ModelError, ValueError):
    """A generation request that cannot be served."""


class GenerationCancelled(ModelError):
    """Reading a prompt was ended by its caller."""
