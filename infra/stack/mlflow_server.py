"""Runs the MLflow server in this one process: `python -m infra.stack.mlflow_server --port 5000 ...`.

`mlflow server` imports MLflow twice (the command and the uvicorn process it starts) and adds eight job-runner
processes of which seven outlive a SIGTERM: 17 to 22 seconds to the first answer on a fresh database, against 9
here. The application, its options and their names are MLflow's own; a name that a later MLflow drops fails here,
at import, and not silently.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from infra.quiet import apply_quiet_environment

SQLITE_PREFIX = "sqlite:///"
# Not options: a database URL may hold a password, and every user of the machine sees command lines.
DATABASE_VARIABLE = "MLFLOW_BACKEND_STORE_URI"
ARTIFACTS_VARIABLE = "MLFLOW_ARTIFACTS_DESTINATION"


def main() -> None:
    """Serve until SIGTERM, with the database and the artifact store that the environment names."""
    arguments = _arguments()
    apply_quiet_environment()
    database, artifacts = os.environ[DATABASE_VARIABLE], os.environ[ARTIFACTS_VARIABLE]
    _use_write_ahead_log(database)
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"

    from mlflow.server import constants

    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = database
    os.environ[constants.REGISTRY_STORE_URI_ENV_VAR] = database
    os.environ[constants.SERVE_ARTIFACTS_ENV_VAR] = "true"
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
    os.environ[constants.ARTIFACTS_DESTINATION_ENV_VAR] = artifacts

    import uvicorn
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(database, database, "mlflow-artifacts:/")
    uvicorn.run(app, host=arguments.host, port=arguments.port, access_log=False)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the MLflow server in one process.")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    return parser.parse_args()


def _use_write_ahead_log(database: str) -> None:
    """Let readers and a writer work at once: SQLite's default journal answers 'database is locked' instead."""
    if not database.startswith(SQLITE_PREFIX):
        return
    path = Path(database.removeprefix(SQLITE_PREFIX))
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=60)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


if __name__ == "__main__":
    main()
