"""Settings: where they come from, how they are read, and what is said about wrong ones."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from peers.errors import ConfigError
from peers.predict import variables
from peers.settings import Settings, redact, reference, sources
from peers.types import BATCH_WAIT_MAX

if TYPE_CHECKING:
    from pathlib import Path

Environment = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def _nothing_configured(monkeypatch: Environment, tmp_path: Path) -> None:
    """Nothing of the machine's own configuration reaches a test."""
    for name in list(os.environ):
        if name.startswith(("PEERS_", "PG")) or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)
    monkeypatch.setattr(sources, "CONFIG_FILE", tmp_path / "absent.toml")


def origin(settings: Settings, name: str) -> str:
    """Who set it."""
    return next(each.origin for each in settings.origins() if each.name == name)


def test_each_source_yields_to_the_one_before(monkeypatch: Environment, tmp_path: Path) -> None:
    """Flags, environment, credentials, file, defaults: the first that has a value gives it."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    file = tmp_path / "peers.toml"
    urls = ("host=default", "host=file", "host=credential", "host=environment", "host=flag")
    expected = ("default", str(file), "systemd credential", "PEERS_DATABASE_URL", "flag")
    seen = []
    for level in range(len(urls)):
        file.write_text(f'database_url = "{urls[1]}"' if level >= 1 else "")
        if level >= 2:
            (credentials / "peers_database_url").write_text(urls[2] + "\n")
            monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
        if level >= 3:
            monkeypatch.setenv("PEERS_DATABASE_URL", urls[3])
        settings = Settings(config=file, database_url=urls[4] if level >= 4 else None)
        seen.append(origin(settings, "database_url"))
        if level >= 1:
            assert settings.url == urls[level]
    assert tuple(seen) == expected


def test_defaults_are_those_of_the_contract() -> None:
    """30 s of lease, a third of it between beats, one queue with a slot for each processor."""
    settings = Settings()
    assert settings.lease_timeout == timedelta(seconds=30)
    assert settings.heartbeat_interval == timedelta(seconds=10)
    assert settings.queues == {"default": len(os.sched_getaffinity(0))}
    assert (settings.keep_completed, settings.keep_dead) == (None, None)
    assert {each.origin for each in settings.origins()} == {"default"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("2m", 120),
        ("1h30m", 5400),
        ("1500ms", 1.5),
        ("PT1M", 60),
        ("45", 45),
        ("1d", 86400),
    ],
)
def test_durations_are_read_as_people_write_them(
    monkeypatch: Environment, text: str, seconds: float
) -> None:
    """Units, combinations, ISO 8601 and plain seconds all mean what they say."""
    monkeypatch.setenv("PEERS_LEASE_TIMEOUT", text)
    assert Settings().lease_timeout == timedelta(seconds=seconds)


def test_queues_are_read_from_a_line_and_from_a_table(
    monkeypatch: Environment, tmp_path: Path
) -> None:
    """default=8,media=2 and a TOML table are the same thing."""
    file = tmp_path / "peers.toml"
    file.write_text("[queues]\ndefault = 8\nmedia = 2\n")
    from_file = Settings(config=file).queues
    monkeypatch.setenv("PEERS_QUEUES", " default=8, media = 2 ")
    assert Settings().queues == from_file == {"default": 8, "media": 2}


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("PEERS_LEASE_TIMEOUT", "0.5s", r'is "0.5s" \(PEERS_LEASE_TIMEOUT\): must be 1s to 1d'),
        ("PEERS_LEASE_TIMEOUT", "soon", 'must be a duration such as "500ms"'),
        ("PEERS_POLL_INTERVAL", "nan", 'must be a duration such as "500ms"'),
        ("PEERS_POLL_INTERVAL", "0", "must be 10ms to 1h"),
        ("PEERS_HEARTBEAT_INTERVAL", "11s", r"at most 10s, a third of lease_timeout \(30s\)"),
        ("PEERS_KEEP_COMPLETED", "30", 'must have a unit, such as "30d"'),
        ("PEERS_KEEP_DEAD", " 1.5 ", "must have a unit"),
        ("PEERS_QUEUES", "default", '"default" does not say its slots'),
        ("PEERS_QUEUES", "default=0", 'queue "default" 0 slots; use 1 to 10000'),
        ("PEERS_QUEUES", "a=1,a=2", 'names the queue "a" twice'),
        ("PEERS_QUEUES", ",", "at least one queue"),
        ("PEERS_LOG_FORMAT", "xml", "must be 'auto', 'json', 'text' or 'journal'"),
        ("PEERS_EMBEDDED", "perhaps", 'embedded is "perhaps"'),
        ("PEERS_LEASE_TIMOUT", "30s", "TIMOUT is no setting.*mean PEERS_LEASE_TIMEOUT"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_explained(
    monkeypatch: Environment, variable: str, value: str, complaint: str
) -> None:
    """The error names the setting, its value and origin, the bound, and the remedy."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=complaint) as caught:
        Settings()
    assert caught.value.exit_code == 78


def test_variables_of_the_tests_and_the_embedded_database_are_left_alone(
    monkeypatch: Environment,
) -> None:
    """PEERS_TEST_* and PEERS_EMBEDDED_* are others' business."""
    before = Settings()
    monkeypatch.setenv("PEERS_TEST_DSN", "x")
    monkeypatch.setenv("PEERS_EMBEDDED_DATA", "x")
    assert Settings() == before


KUBERNETES = {
    "SERVICE_HOST": "10.0.0.1",
    "SERVICE_PORT": "80",
    "SERVICE_PORT_HTTP": "80",
    "PORT": "tcp://10.0.0.1:80",
    "PORT_80_TCP": "tcp://10.0.0.1:80",
    "PORT_80_TCP_PROTO": "tcp",
    "PORT_80_TCP_PORT": "80",
    "PORT_80_TCP_ADDR": "10.0.0.1",
    "PORT_53_UDP": "udp://10.0.0.1:53",
    "PORT_53_UDP_ADDR": "fd00::1",
}
DOCKER = {
    "NAME": "/web/peers",
    "PORT": "tcp://172.17.0.5:5432",
    "PORT_5432_TCP_ADDR": "172.17.0.5",
    "PORT_8000_TCP_PORT_START": "8000",
    "ENV_POSTGRES_PASSWORD": "two\nlines",
}


@pytest.mark.parametrize("service", ["PEERS", "PEERS_DB", "PEERS_WEB_2"])
@pytest.mark.parametrize("variables", [KUBERNETES, DOCKER], ids=["kubernetes", "docker"])
def test_variables_of_a_service_named_peers_are_ignored(
    monkeypatch: Environment, service: str, variables: dict[str, str]
) -> None:
    """Kubernetes and Docker set them in every container beside one; they set nothing of ours."""
    before = [setting[:2] for setting in Settings().origins()]
    for name, value in variables.items():
        monkeypatch.setenv(f"{service}_{name}", value)
    assert [setting[:2] for setting in Settings().origins()] == before


@pytest.mark.parametrize(
    ("name", "value"),
    [("PEERS_QUEUE", "a=1"), ("PEERS_PORT", "5432"), ("PEERS_HOST", "db"), ("PEERS_NAME", "web"),
     ("PEERS_SERVICE", "x"), ("PEERS_PORTS", "tcp://x:1"), ("PEERS_DATABASE_PORT", "5432"),
     ("PEERS_SERVICE_PORT", "many")],
)  # fmt: skip
def test_a_slip_is_no_service(monkeypatch: Environment, name: str, value: str) -> None:
    """What only looks like such a variable is an error as ever."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name} is no setting"):
        Settings()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("lease = = 1", "cannot be read: Invalid value"),
        ("leasetimeout = 1", '"leasetimeout" in .* is no setting.*Did you mean lease_timeout'),
        ("queues = {default = 'x'}", "queues is"),
        (None, "there is no configuration file"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path: Path, content: str | None, complaint: str) -> None:
    """The error names the file, and what in it is wrong."""
    file = tmp_path / "peers.toml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=complaint) as caught:
        Settings(config=file)
    assert str(file) in str(caught.value)


def test_without_a_database_nobody_guesses(monkeypatch: Environment) -> None:
    """No URL is an error that says what to set; libpq's own variables are a database too."""
    settings = Settings()
    assert not settings.has_database
    with pytest.raises(ConfigError, match="PEERS_DATABASE_URL"):
        _ = settings.url
    monkeypatch.setenv("PGHOST", "db.example")
    assert Settings().url == ""


def test_secrets_are_shown_nowhere(monkeypatch: Environment) -> None:
    """Neither origins nor repr show a password."""
    monkeypatch.setenv("PEERS_DATABASE_URL", "postgresql://app:s3cret@db/shop?sslpassword=s3cret")
    settings = Settings()
    shown = "".join(map(str, settings.origins())) + repr(settings)
    assert "s3cret" not in shown
    assert "postgresql://app:***@db/shop" in shown


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s3cret@h/db",
        "postgresql://u:s3@cret@h/db",
        "postgresql://u:s3/cret@h/db",
        "host=h password=s3cret user=u",
        "host=h password='s3 \\' cret' user=u",
        "postgresql://u@h/db?password=s3cret",
    ],
)
def test_redaction_finds_the_password_in_every_form(url: str) -> None:
    """Of URLs and of key=value strings, quoted or not."""
    assert "s3" not in redact(url)
    assert "cret" not in redact(url)
    assert "h" in redact(url)


@pytest.mark.parametrize(
    ("given", "bytes_"),
    [("512M", 512 << 20), ("2G", 2 << 30), ("1.5GiB", 3 << 29), ("64mb", 64 << 20),
     ("20971520", 20 << 20), (" 1 T ", 1 << 40)],
)  # fmt: skip
def test_a_size_has_a_unit(monkeypatch: Environment, given: str, bytes_: int) -> None:
    """Powers of 1024, in any case; a number alone is bytes."""
    monkeypatch.setenv("PEERS_WORKER_MAX_MEMORY", given)
    settings = Settings()
    assert settings.worker_max_memory == bytes_
    shown = next(o.value for o in settings.origins() if o.name == "worker_max_memory")
    assert Settings(worker_max_memory=shown).worker_max_memory == bytes_


@pytest.mark.parametrize("given", ["much", "-1", "1M", "12X", "1e9", "0", "1 M M"])
def test_a_size_that_is_none_is_refused(given: str) -> None:
    """With an example, or with the least that makes sense."""
    with pytest.raises(ConfigError, match=r"worker_max_memory is .*(512M|16M)"):
        Settings(worker_max_memory=given)


def test_a_worker_lives_for_ever_unless_told_otherwise() -> None:
    """Both limits are unset by default, and one task is the least."""
    settings = Settings()
    assert (settings.worker_max_tasks, settings.worker_max_memory) == (None, None)
    with pytest.raises(ConfigError, match="worker_max_tasks"):
        Settings(worker_max_tasks=0)


def test_variables_of_workers_are_read_from_flags_a_line_and_a_table(
    monkeypatch: Environment, tmp_path: Path
) -> None:
    """A value may hold commas, equals signs and, in quotes, spaces."""
    expected = {"PEERS_PREDICT_TRUST": "/srv/models,shop.models", "A": "b=c", "B": "two words"}
    file = tmp_path / "peers.toml"
    file.write_text(
        '[worker_env]\nPEERS_PREDICT_TRUST = "/srv/models,shop.models"\nA = "b=c"\n'
        'B = "two words"\n'
    )
    assert Settings(config=file).worker_env == expected
    line = "PEERS_PREDICT_TRUST=/srv/models,shop.models A=b=c B='two words'"
    monkeypatch.setenv("PEERS_WORKER_ENV", line)
    assert Settings(config=file).worker_env == expected
    assert origin(Settings(config=file), "worker_env") == "PEERS_WORKER_ENV"
    flags = Settings(worker_env=["A=1", "B=two words"])
    assert flags.worker_env == {"A": "1", "B": "two words"}
    assert origin(flags, "worker_env") == "flag"


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["s3cret"], "must look like NAME=VALUE"),
        ("A='s3cret", "a quote that is not closed"),
        (["1A=s3cret"], 'a variable named "1A"; use letters, digits and _'),
        ({"A": "s3cret\0"}, "gives A a value with a NUL character"),
        ({"A": True}, "gives A a value that is no text"),
        ({"A": ["s3cret"]}, "gives A a value that is no text"),
    ],
)
def test_variables_of_workers_that_are_none_are_refused(given: object, complaint: str) -> None:
    """The error says how they must look, and repeats no value, which may be a secret."""
    with pytest.raises(ConfigError, match=complaint) as caught:
        Settings(worker_env=given)
    assert "s3cret" not in str(caught.value)


def test_secrets_of_workers_are_shown_nowhere() -> None:
    """A name that looks like a secret's hides the value, and a URL loses its password."""
    given = {
        "SHOP_API_KEY": "s3cret",
        "db_password": "s3cret",
        "URL": "http://u:s3cret@h/",
        "A": "b c",
    }
    settings = Settings(worker_env=given)
    shown = {each.name: each.value for each in settings.origins()}["worker_env"]
    assert shown == "SHOP_API_KEY='***' db_password='***' URL='http://u:***@h/' A='b c'"
    assert "s3cret" not in repr(settings)


def test_variables_of_a_guest_pass_and_a_slip_among_them_does_not(monkeypatch: Environment) -> None:
    """A peer hands them to its workers; it need not know what they mean."""
    for name in variables.VARIABLES:
        monkeypatch.setenv(name, "x")
    Settings()
    monkeypatch.setenv("PEERS_PREDICT_TRUTS", "x")
    with pytest.raises(ConfigError, match=r"TRUTS is no setting.*mean PEERS_PREDICT_TRUST"):
        Settings()


def test_a_variable_that_is_named_for_workers_passes(monkeypatch: Environment) -> None:
    """The operator has said that it is meant."""
    monkeypatch.setenv("PEERS_SHOP_REGION", "north")
    with pytest.raises(ConfigError, match="PEERS_SHOP_REGION is no setting"):
        Settings()
    Settings(worker_env=["PEERS_SHOP_REGION=south"])


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("", 0.05), ("250ms", 0.25), ("0.25", 0.25), ("2s", 2), ("0", 0), ("4s", 4),
     ("5s", None), ("soon", None), ("-1s", None)],
)  # fmt: skip
def test_the_wait_of_predictions_is_bounded(
    monkeypatch: Environment, given: str, seconds: float | None
) -> None:
    """No longer than any batch may wait; the error names the variable and the bound."""
    monkeypatch.setenv("PEERS_PREDICT_BATCH_WAIT", given)
    assert variables.BATCH_WAIT_MAX.total_seconds() == BATCH_WAIT_MAX
    if seconds is None:
        with pytest.raises(ConfigError, match=r"PEERS_PREDICT_BATCH_WAIT.*0s to 4s"):
            variables.batch_wait()
    else:
        assert variables.batch_wait().total_seconds() == seconds


def test_every_setting_is_described_completely() -> None:
    """Its name, form, default, variable, flag and sentence; the documentation is made from them."""
    found = {each.name: each for each in reference()}
    assert list(found) == list(Settings.model_fields)
    for each in found.values():
        assert all(part for name, part in each._asdict().items() if name != "bounds"), each
        assert each.variable == f"PEERS_{each.name.upper()}"
    lease = found["lease_timeout"]
    assert (lease.placeholder, lease.default, lease.bounds) == ("DURATION", "30s", "1s to 1d")
    assert found["heartbeat_interval"].default == "a third of lease_timeout"
    assert found["worker_threads"].bounds == "1 to 1024"
