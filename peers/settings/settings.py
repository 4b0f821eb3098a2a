"""The settings, each with its default and its bounds."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from peers.errors import ConfigError
from peers.settings.sources import PREFIX, gather, refuse_unknown_variables, sentence
from peers.settings.values import (
    between,
    check_queues,
    check_size,
    duration,
    lower,
    parse_queues,
    show,
    size,
    switch,
    words,
)
from peers.types import BATCH_WAIT_MAX, DEFAULT_QUEUE

_LIBPQ: Final = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGSERVICE")
_BEATS_PER_LEASE: Final = 3
_DAY: Final = timedelta(days=1)
_CENTURY: Final = timedelta(days=36_525)


def _default_queues() -> dict[str, int]:
    return {DEFAULT_QUEUE: len(os.sched_getaffinity(0))}


class Origin(NamedTuple):
    """A setting as it is shown: `origin` says who set it."""

    name: str
    value: str
    origin: str


class Settings(BaseSettings):
    """The effective settings. Keyword arguments are flags and win; None is a flag not given.

    Raises ConfigError, which names the setting, where its value came from, the bound, the remedy.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    database_url: SecretStr | None = Field(
        None, description="database URL (default: libpq's environment variables)"
    )
    app: str | None = Field(None, description="the module that holds the handlers")
    queues: Annotated[
        dict[str, int], NoDecode, BeforeValidator(parse_queues), AfterValidator(check_queues)
    ] = Field(default_factory=_default_queues, description="queues and their slots")
    lease_timeout: Annotated[
        timedelta, BeforeValidator(duration), between(timedelta(seconds=1), _DAY)
    ] = Field(timedelta(seconds=30), description="how long leases outlive the last heartbeat")
    heartbeat_interval: Annotated[
        timedelta, BeforeValidator(duration), between(timedelta(milliseconds=100), _DAY)
    ] = Field(
        default_factory=lambda data: data["lease_timeout"] / _BEATS_PER_LEASE,
        description="at most a third of lease_timeout, which is the default",
    )
    poll_interval: Annotated[
        timedelta,
        BeforeValidator(duration),
        between(timedelta(milliseconds=10), timedelta(hours=1)),
    ] = Field(timedelta(seconds=1), description="how often an idle peer looks for work")
    drain_timeout: Annotated[timedelta, BeforeValidator(duration), between(timedelta(0), _DAY)] = (
        Field(timedelta(seconds=30), description="how long running tasks may go on after SIGTERM")
    )
    cancel_grace: Annotated[timedelta, BeforeValidator(duration), between(timedelta(0), _DAY)] = (
        Field(
            timedelta(seconds=5), description="how long a handler has to stop before it is killed"
        )
    )
    prune_after: (
        Annotated[timedelta, BeforeValidator(duration), between(timedelta(0), _CENTURY)] | None
    ) = Field(None, description="how long after their end tasks are deleted (default: never)")
    log_format: Annotated[Literal["auto", "json", "text"], BeforeValidator(lower)] = Field(
        "auto", description="auto: text on a terminal and in the journal, JSON lines elsewhere"
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lower)] = (
        Field("info", description="the lowest level that is logged")
    )
    preload: Annotated[bool, BeforeValidator(switch)] = Field(
        True, description="import the app once and fork the workers (off: each imports it itself)"
    )
    worker_threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None,
        description="threads of BLAS and OpenMP in a worker (default: cores divided by slots)",
    )
    worker_max_tasks: Annotated[int, Field(ge=1)] | None = Field(
        None, description="tasks that a worker runs before another replaces it (default: no limit)"
    )
    worker_max_memory: Annotated[int, BeforeValidator(size), AfterValidator(check_size)] | None = (
        Field(
            None,
            description="resident memory, such as 2G, beyond which a worker is replaced "
            "(default: no limit)",
        )
    )
    gpus: Annotated[tuple[str, ...], NoDecode, BeforeValidator(words)] = Field(
        (), description="GPUs (such as 0,1), one for each worker in turn"
    )
    predict_trust: Annotated[tuple[str, ...], NoDecode, BeforeValidator(words)] = Field(
        (), description="folders and modules from which predictions may load models that are code"
    )
    predict_batch_wait: Annotated[
        timedelta,
        BeforeValidator(duration),
        between(timedelta(0), timedelta(seconds=BATCH_WAIT_MAX)),
    ] = Field(
        timedelta(milliseconds=50),
        description="how long single rows wait for others, to share one call of the model",
    )
    embedded: bool = Field(False, description="use the private Postgres of this machine")

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    def __init__(self, *, config: Path | None = None, **flags: object) -> None:
        refuse_unknown_variables(list(type(self).model_fields))
        values, origins = gather(type(self), config, flags)
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise sentence(error, list(type(self).model_fields), values, origins) from None
        self._origins.update(origins)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Validates what was gathered, and reads nothing on its own."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @model_validator(mode="after")
    def _beats_often_enough(self) -> Settings:
        longest = self.lease_timeout / _BEATS_PER_LEASE
        if self.heartbeat_interval > longest:
            raise ValueError(
                f"heartbeat_interval is {show(self.heartbeat_interval)}, but may be at most "
                f"{show(longest)}, a third of lease_timeout ({show(self.lease_timeout)}); "
                "lower it, raise lease_timeout, or leave it out"
            )
        return self

    @property
    def has_database(self) -> bool:
        """Whether a database is named, be it by libpq's own variables."""
        return self.database_url is not None or any(os.environ.get(name) for name in _LIBPQ)

    @property
    def url(self) -> str:
        """The database's URL; empty when libpq's own variables name it.

        Raises ConfigError when nothing does.
        """
        if not self.has_database:
            raise ConfigError(
                "no database is configured",
                "Set PEERS_DATABASE_URL=postgresql://user@host/database (or libpq's PGHOST, "
                "PGSERVICE …); --embedded uses a private one on this machine.",
            )
        return self.database_url.get_secret_value() if self.database_url else ""

    def origins(self) -> list[Origin]:
        """Every setting with its value, passwords hidden, and who set it."""
        return [
            Origin(name, show(getattr(self, name)), self._origins.get(name, "default"))
            for name in type(self).model_fields
        ]
