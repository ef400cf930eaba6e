"""Registration: the deployable bundle, and its place in the model registry.

Public surface: `STAGE` (kind `registration`), `RegistrationConfig`, `RegisteredVersion`; `PartialTraining` and
`partial_training` for a model whose training was stopped early. The registry (`tasks.registration.registry`:
`ensure_registered`, `find_version`, `promote`, `rollback`) imports MLflow, which takes seconds, and so is imported
where it is used.
"""

from tasks.registration.config import RegistrationConfig
from tasks.registration.partial import PartialTraining, partial_training
from tasks.registration.stage import STAGE
from tasks.registration.version import RegisteredVersion

__all__ = ["STAGE", "PartialTraining", "RegisteredVersion", "RegistrationConfig", "partial_training"]
