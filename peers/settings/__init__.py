"""What a peer is told: flags, PEERS_* variables, systemd credentials, a TOML file, defaults."""

from peers.settings.settings import Origin, Settings
from peers.settings.values import redact

__all__ = ["Origin", "Settings", "redact"]
