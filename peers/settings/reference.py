"""List the settings for help texts and documentation."""

from __future__ import annotations

from typing import NamedTuple

from pydantic_core import PydanticUndefined

from peers.settings.forms import Form, Span
from peers.settings.settings import Settings
from peers.settings.sources import variable
from peers.settings.values import show


class SettingReference(NamedTuple):
    """One setting, as text for people."""

    name: str
    """Also its key in the configuration file."""
    placeholder: str
    """The form of its value, such as DURATION or on|off."""
    default: str
    bounds: str
    """Empty when the form says everything."""
    variable: str
    flag: str
    description: str


def reference() -> list[SettingReference]:
    """Return every setting, in the order in which people look for them."""
    return [_describe(name) for name in Settings.model_fields]


def _describe(name: str) -> SettingReference:
    field = Settings.model_fields[name]
    form = next(each for each in field.metadata if isinstance(each, Form | Span))
    default = form.default
    if default is None:
        assert field.default is not PydanticUndefined, f"{name}: describe its default"
        default = show(field.default)
    return SettingReference(
        name, form.placeholder, default, form.bounds, variable(name),
        f"--{name.replace('_', '-')}", field.description or "",
    )  # fmt: skip
