"""The stages: one package each, a plain function with a config; `stage_task` wraps any of them for Prefect."""
