"""Resolve the --model of the user to a reference."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from peers.predict.errors import ModelError
from peers.predict.models import digests
from peers.predict.models.access import refuse_secret_query
from peers.predict.models.modules import find_source
from peers.predict.models.protocols import protocol_of
from peers.predict.spec import NO_ACCESS, Access, EndpointProtocol, ModelKind, ModelRef

_KNOWN: Final = (
    "Known are *.onnx, scikit-learn's *.joblib, *.pkl and *.pickle, package.module:callable, "
    "and http(s)://…"
)
_BY_SUFFIX: Final[dict[str, tuple[ModelKind, Callable[[Path], str]]]] = {
    ".onnx": ("onnx", digests.of_onnx),
    ".joblib": ("sklearn", digests.of_file),
    ".pkl": ("sklearn", digests.of_file),
    ".pickle": ("sklearn", digests.of_file),
}
_URL: Final = re.compile(r"https?://", re.IGNORECASE)
_CALLABLE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def resolve(
    text: str, method: str | None, protocol: EndpointProtocol | None = None,
    access: Access = NO_ACCESS,
) -> ModelRef:  # fmt: skip
    """Return the reference of the model that `text` names, by its form, without loading it.

    `method` is a method of the estimator, or an output of an ONNX model or an endpoint of version
    2. Raises ModelError for an unknown form, for a model that is missing or unreadable, and for a
    method, protocol or access that this kind of model does not have.
    """
    if _URL.match(text):
        url = _checked_url(text)
        chosen = protocol or protocol_of(url)
        if chosen != "v2":
            _refuse_method(method, "a model behind HTTP, except for an output of protocol v2")
        return ModelRef("http", url, digests.of_text(text), method, chosen, access)
    if protocol is not None or access != NO_ACCESS:
        raise ModelError(
            f"{text} is not an endpoint, so it takes no protocol, header or token",
            "Leave these options out, or name a URL as the model.",
        )
    path = Path(text).expanduser().absolute()
    if path.suffix.lower() in _BY_SUFFIX:
        return _file(path, method)
    if _CALLABLE.fullmatch(text):
        _refuse_method(method, "a callable")
        source = find_source(text.partition(":")[0])
        return ModelRef("callable", text, digests.of_callable(text, source))
    if path.is_dir():
        raise ModelError(f"{text} is a folder, not a model", _KNOWN)
    if path.exists():
        raise ModelError(f"{text}: the format of this model is unknown", _KNOWN)
    raise ModelError(f"{text} is neither a file nor any other known kind of model", _KNOWN)


def _file(path: Path, method: str | None) -> ModelRef:
    kind, digest = _BY_SUFFIX[path.suffix.lower()]
    if path.is_dir():
        raise ModelError(f"{path} is a folder, not a model", _KNOWN)
    if kind == "sklearn" and method is not None and not _is_public(method):
        raise ModelError(f"--method {method} is not the name of a method", "Try predict_proba.")
    try:
        return ModelRef(kind, str(path), digest(path), method)
    except FileNotFoundError:
        raise ModelError(f"There is no file {path}", _KNOWN) from None
    except OSError as error:
        raise ModelError(f"The model {path} cannot be read: {error.strerror}") from error


def _is_public(method: str) -> bool:
    return method.isidentifier() and not method.startswith("_")


def _refuse_method(method: str | None, what: str) -> None:
    if method is not None:
        raise ModelError(
            f"--method {method} does not apply to {what}",
            "It chooses a method of a scikit-learn estimator, or an output of an ONNX model.",
        )


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        complete = bool(parts.hostname) and (parts.port or 1) > 0  # a bad port raises here
    except ValueError as error:
        shown = f"https://***@{url.rpartition('@')[2]}" if "@" in url else url
        raise ModelError(f"{shown} is not a URL: {error}") from None
    if not complete:
        raise ModelError(f"{url} is not a URL: it names no host")
    if parts.username is not None or parts.password is not None:
        raise ModelError(
            f"The URL of the model at {parts.hostname} holds a password, which would be stored "
            "with the run",
            "Leave it out, and name a file that has it: --token-file, or --header-file with a line "
            "'Authorization: Basic …'.",
        )
    refuse_secret_query(url)
    return url
