"""Read the settings: flags, PEERS_* variables, systemd credentials, a TOML file, defaults."""

from peers.settings.reference import SettingReference, reference
from peers.settings.settings import Origin, Settings
from peers.settings.values import join_variables, redact

__all__ = ["Origin", "SettingReference", "Settings", "join_variables", "redact", "reference"]
