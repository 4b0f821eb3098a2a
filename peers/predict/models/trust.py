"""Decide which models may be loaded that are code: pickles, and callables of Python modules."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from peers import ConfigError
from peers.predict.errors import ModelNotTrusted
from peers.predict.spec import ModelRef
from peers.predict.variables import TRUST

_MODULE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True, slots=True)
class Trust:
    """What the operator trusts: all files in these folders, and these modules and packages."""

    folders: tuple[Path, ...] = ()
    modules: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls) -> Trust:
        """Read PEERS_PREDICT_TRUST: absolute folders and names of modules, separated by commas.

        Raises ConfigError for an entry that is neither.
        """
        folders: list[Path] = []
        modules: list[str] = []
        entries = os.environ.get(TRUST, "").split(",")
        for entry in filter(None, map(str.strip, entries)):
            if Path(entry).is_absolute():
                folders.append(Path(entry))
            elif _MODULE.fullmatch(entry):
                modules.append(entry)
            else:
                raise ConfigError(
                    f"{TRUST}: '{entry}' is neither an absolute folder nor a module",
                    f'Write it like {TRUST}="/srv/models,shop.models".',
                )
        return cls(tuple(folders), tuple(modules))

    def with_named(self, reference: ModelRef) -> Trust:
        """Return the same with the model itself: naming it on the command line trusts it."""
        if reference.kind == "sklearn":
            return replace(self, folders=(*self.folders, Path(reference.ref).resolve().parent))
        if reference.kind == "callable":
            return replace(self, modules=(*self.modules, reference.ref.partition(":")[0]))
        return self

    def as_text(self) -> str:
        """Return the value for PEERS_PREDICT_TRUST."""
        return ",".join([*map(str, self.folders), *self.modules])

    def check_file(self, path: Path) -> Path:
        """Return the real path of this file. Raises ModelNotTrusted unless it is trusted."""
        real = path.resolve()
        if any(real.is_relative_to(folder.resolve()) for folder in self.folders):
            return real
        leads = "" if real == path else f" (a link to {real})"
        raise ModelNotTrusted(
            f"{path}{leads} is not in a trusted folder, and loading a pickle runs code",
            f"If you trust it, add its folder on every peer and here: {self._with(real.parent)}",
        )

    def check_module(self, module: str) -> None:
        """Raise ModelNotTrusted unless the module, or a package around it, is trusted by name."""
        if any(module == trusted or module.startswith(f"{trusted}.") for trusted in self.modules):
            return
        raise ModelNotTrusted(
            f"The module {module} is not trusted, and importing it runs code",
            f"If you trust it, add it, or its package, on every peer and here: "
            f"{self._with(module)}",
        )

    def _with(self, entry: Path | str) -> str:
        return f'{TRUST}="{",".join(filter(None, [self.as_text(), str(entry)]))}"'
