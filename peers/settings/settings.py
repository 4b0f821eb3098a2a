"""Define each setting with its type, bounds, default and description."""

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
from peers.settings.forms import Age, Form, Span
from peers.settings.sources import PREFIX, explain, gather, refuse_unknown_variables
from peers.settings.values import (
    SLOTS_MAX,
    ListenAddress,
    check_queues,
    check_size,
    check_variables,
    lower,
    parse_address,
    parse_queues,
    parse_variables,
    show,
    show_variables,
    size,
    switch,
    words,
)
from peers.types import DEFAULT_QUEUE

_LIBPQ: Final = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGSERVICE")
_HEARTBEATS_PER_LEASE: Final = 3
_DAY: Final = timedelta(days=1)
_CENTURY: Final = timedelta(days=36_525)


def _default_queues() -> dict[str, int]:
    return {DEFAULT_QUEUE: len(os.sched_getaffinity(0))}


class Origin(NamedTuple):
    """A setting as `peers config` shows it. `origin` says who set it."""

    name: str
    value: str
    origin: str


class Settings(BaseSettings):
    """The effective settings of a process.

    Keyword arguments are flags, which win over all other sources; None is a flag that is not given.
    Raises ConfigError, which names the setting, the origin of its value, the bound and the remedy.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, validate_default=False
    )

    database_url: Annotated[SecretStr | None, Form("URL", default="libpq's variables")] = Field(
        None, description="URL of the database"
    )
    listen_url: Annotated[SecretStr | None, Form("URL", default="none")] = Field(
        None,
        description="URL that leads to the database directly, for notifications, where "
        "database_url leads to a pooler in transaction mode; without it such a peer polls",
    )
    durable_claims: Annotated[bool, BeforeValidator(switch), Form("on|off", default="off")] = Field(
        False,
        description="wait for the disk when claiming; off: tasks start sooner, and if Postgres "
        "itself crashes it may forget claims of the last moments, so that their tasks run again",
    )
    app: Annotated[str | None, Form("MODULE", default="none")] = Field(
        None, description="module that holds the handlers; `peers run` needs it"
    )
    queues: Annotated[
        dict[str, int], NoDecode, BeforeValidator(parse_queues), AfterValidator(check_queues),
        Form("NAME=SLOTS,…", f"1 to {SLOTS_MAX} slots for each queue", "default=<number of cores>"),
    ] = Field(
        default_factory=_default_queues,
        description="queues that the peer serves, and how many tasks of each it runs at once",
    )  # fmt: skip
    lease_timeout: Annotated[timedelta, Span(timedelta(seconds=1), _DAY)] = Field(
        timedelta(seconds=30),
        description="how long after its last heartbeat a peer keeps its tasks; then other peers "
        "reclaim them",
    )
    heartbeat_interval: Annotated[
        timedelta, Span(timedelta(milliseconds=100), _DAY, "a third of lease_timeout")
    ] = Field(
        default_factory=lambda data: data["lease_timeout"] / _HEARTBEATS_PER_LEASE,
        description="time between two heartbeats; at most a third of lease_timeout",
    )
    poll_interval: Annotated[timedelta, Span(timedelta(milliseconds=10), timedelta(hours=1))] = (
        Field(
            timedelta(seconds=5),
            description="how often an idle peer asks for tasks when no notification comes; at "
            "least every second where none can come",
        )
    )
    drain_timeout: Annotated[timedelta, Span(timedelta(0), _DAY)] = Field(
        timedelta(seconds=30),
        description="how long running tasks may go on after SIGTERM; then they are stopped and "
        "released",
    )
    cancel_grace: Annotated[timedelta, Span(timedelta(0), _DAY)] = Field(
        timedelta(seconds=5),
        description="how long a cancelled handler has to stop before its worker is killed",
    )
    keep_completed: Annotated[timedelta | None, Age(timedelta(0), _CENTURY, "for ever")] = Field(
        None, description="how long completed and cancelled tasks are kept after their end"
    )
    keep_dead: Annotated[timedelta | None, Age(timedelta(0), _CENTURY, "for ever")] = Field(
        None,
        description="how long dead letters are kept; then the tasks that wait for one are "
        "cancelled, and it is deleted",
    )
    log_format: Annotated[
        Literal["auto", "json", "text", "journal"], BeforeValidator(lower),
        Form("auto|text|json|journal"),
    ] = Field(
        "auto",
        description="form of the log; auto is text on a terminal, entries with fields in systemd's "
        "journal, JSON lines elsewhere",
    )  # fmt: skip
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], BeforeValidator(lower),
        Form("debug|info|warning|error"),
    ] = Field("info", description="lowest level that is logged")  # fmt: skip
    metrics_listen: Annotated[
        ListenAddress | None, NoDecode, BeforeValidator(parse_address),
        Form("[ADDRESS:]PORT[+]", default="none"),
    ] = Field(
        None,
        description="serve /metrics, /healthz and /readyz over HTTP there: 9187 for this machine "
        "only, 0.0.0.0:9187 for all; 9187+ takes the next free port, for several peers on one host",
    )  # fmt: skip
    preload: Annotated[bool, BeforeValidator(switch), Form("on|off", default="on")] = Field(
        True, description="import the app once and fork the workers; off: each worker imports it"
    )
    worker_threads: Annotated[
        int | None, Field(ge=1, le=1024), Form("N", "1 to 1024", "cores divided by slots")
    ] = Field(None, description="threads of BLAS and OpenMP in each worker")
    worker_max_tasks: Annotated[int | None, Field(ge=1), Form("N", "1 or more", "no limit")] = (
        Field(None, description="tasks after which a worker is replaced")
    )
    worker_max_memory: Annotated[
        int | None, BeforeValidator(size), AfterValidator(check_size),
        Form("BYTES", "16M or more", "no limit"),
    ] = Field(
        None, description="resident memory, such as 2G, above which a worker is replaced"
    )  # fmt: skip
    worker_env: Annotated[
        dict[str, str], NoDecode, BeforeValidator(parse_variables),
        AfterValidator(check_variables), Form("NAME=VALUE", default="none"),
    ] = Field(
        default_factory=dict, repr=False,
        description="environment variables of the workers, beside those of the peer",
    )  # fmt: skip
    gpus: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(words), Form("0,1,…", default="none")
    ] = Field((), description="GPUs, one for each worker in turn (CUDA_VISIBLE_DEVICES)")
    embedded: Annotated[bool, BeforeValidator(switch), Form("on|off", default="off")] = Field(
        False, description="use the private Postgres of this machine"
    )

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    def __init__(self, *, config: Path | None = None, **flags: object) -> None:
        values, origins = gather(type(self), config, flags)
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise explain(error, type(self), values, origins) from None
        refuse_unknown_variables(type(self), self.worker_env)
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
        """Validate the gathered values only. `gather` has read the sources."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @model_validator(mode="after")
    def _check_heartbeat_interval(self) -> Settings:
        longest = self.lease_timeout / _HEARTBEATS_PER_LEASE
        if self.heartbeat_interval > longest:
            raise ValueError(
                f"heartbeat_interval is {show(self.heartbeat_interval)}, but may be at most "
                f"{show(longest)}, a third of lease_timeout ({show(self.lease_timeout)}); "
                "lower it, raise lease_timeout, or leave heartbeat_interval out"
            )
        return self

    @property
    def has_database(self) -> bool:
        """Return whether a setting or one of libpq's own variables names a database."""
        return self.database_url is not None or any(os.environ.get(name) for name in _LIBPQ)

    @property
    def url(self) -> str:
        """Return the database's URL, or "" when libpq's own variables name it.

        Raises ConfigError when no database is named.
        """
        if not self.has_database:
            raise ConfigError(
                "no database is configured",
                "Set PEERS_DATABASE_URL=postgresql://user@host/database (or libpq's PGHOST or "
                "PGSERVICE), or PEERS_EMBEDDED=1 for a private one on this machine (--embedded for "
                "a single command).",
            )
        return self.database_url.get_secret_value() if self.database_url else ""

    def origins(self) -> list[Origin]:
        """Return every setting with its value, with secrets hidden, and who set it."""
        return [
            Origin(name, self._shown(name), self._origins.get(name, "default"))
            for name in type(self).model_fields
        ]

    def _shown(self, name: str) -> str:
        if name == "worker_env":
            return show_variables(self.worker_env)
        return show(getattr(self, name))
