"""Tells the user's own `prefect` command where the stack's server is, whatever port it got.

In the project folder that is a generated `prefect.toml`: Prefect reads it from the working directory, above
`pyproject.toml` (which cannot know the port) and above the user's profile, and below environment variables, so an
explicit PREFECT_API_URL still wins. A `.env` would work too, but that file is the user's, for secrets.

Everywhere else it is a Prefect profile named `sam2`. It is made the active one only if the user has no profile of
their own in use, and the earlier choice is restored when the stack stops.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from infra.stack.settings import StackSettings

GENERATED_MARK = "# Written by `sam2 up` and removed by `sam2 stop`; do not edit or commit.\n"
PROFILE = "sam2"
# What Prefect itself ships as its default; switching away from it takes nothing from the user.
PREFECT_DEFAULT_PROFILE = "ephemeral"


def publish(settings: StackSettings, api_url: str) -> list[str]:
    """Write `prefect.toml` and the profile; what the user should know about it, as lines."""
    notes = _write_toml(settings.project / "prefect.toml", api_url)
    if settings.publish_profile:
        notes += _write_profile(api_url)
    return notes


def withdraw(settings: StackSettings, api_url: str) -> None:
    """Take back what `publish` wrote for this server; what belongs to another server or to the user stays."""
    path = settings.project / "prefect.toml"
    if path.exists() and path.read_text(encoding="utf-8") == _toml_text(api_url):
        path.unlink()
    if settings.publish_profile:
        _deactivate_profile(api_url)


def _toml_text(api_url: str) -> str:
    return f'{GENERATED_MARK}[api]\nurl = "{api_url}"\n'


def _write_toml(path: Path, api_url: str) -> list[str]:
    text = _toml_text(api_url)
    existing = path.read_text(encoding="utf-8") if path.exists() else ""
    if existing and not existing.startswith(GENERATED_MARK):
        return [f"{path} is yours and was left alone: set `[api] url` in it to {api_url}."]
    if existing != text:
        path.write_text(text, encoding="utf-8")
    return []


def _write_profile(api_url: str) -> list[str]:
    content = _read_profiles()
    profiles = content.setdefault("profiles", {})
    active = content.get("active")
    may_activate = active in (None, PROFILE, PREFECT_DEFAULT_PROFILE)
    wanted = {"PREFECT_API_URL": api_url, "PREFECT_PLUGINS_ENABLED": "true"}
    if profiles.get(PROFILE) != wanted or (may_activate and active != PROFILE):
        profiles[PROFILE] = wanted
        if may_activate:
            content["active"] = PROFILE
        _save_profiles(content)
    if may_activate:
        return []
    return [f"Your Prefect profile {active!r} stays active: elsewhere use `prefect --profile {PROFILE} ...`."]


def _deactivate_profile(api_url: str) -> None:
    content = _read_profiles()
    profile = content.get("profiles", {}).get(PROFILE, {})
    if content.get("active") == PROFILE and profile.get("PREFECT_API_URL") == api_url:
        content["active"] = PREFECT_DEFAULT_PROFILE
        _save_profiles(content)


def _profiles_path() -> Path:
    """Where Prefect itself keeps the user's profiles."""
    explicit = os.environ.get("PREFECT_PROFILES_PATH")
    if explicit:
        return Path(explicit).expanduser()
    return Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser() / "profiles.toml"


def _read_profiles() -> dict[str, Any]:
    try:
        return tomllib.loads(_profiles_path().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def _save_profiles(content: dict[str, Any]) -> None:
    import toml  # type: ignore[import-untyped]  # the writer Prefect uses for this file

    path = _profiles_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(toml.dumps(content), encoding="utf-8")
    temporary.replace(path)
