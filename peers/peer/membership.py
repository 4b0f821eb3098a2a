"""Join the peers of a database, and leave them."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from typing import Final

from peers import events
from peers.database import functions
from peers.database.reconnecting import ReconnectingConnection
from peers.errors import ConfigError, ContractMismatch, DatabaseUnreachable
from peers.peer.heartbeat import Heartbeat, boottime
from peers.peer.leases import Leases
from peers.peer.state import PeerState
from peers.peer.witness import register_process, unregister_process
from peers.settings import Settings
from peers.types import CONTRACT_VERSION, KindPolicy
from peers.version import package_version

_LAST_CONNECT_SECONDS: Final = 2.0
_LAST_REPLY_SECONDS: Final = 1.0
_PROBE_EVERY: Final = 1.0


class Membership:
    """The peer's row in the database, from one join to the next.

    It calls `on_join` after each join, and `on_outdated` once when a migration has changed the
    contract, so that this release can no longer work.
    """

    def __init__(
        self,
        state: PeerState,
        settings: Settings,
        connection: ReconnectingConnection,
        leases: Leases,
        heartbeat: Heartbeat,
        on_join: Callable[[str], None],
        on_outdated: Callable[[], None],
    ) -> None:
        self._state = state
        self._settings = settings
        self._connection = connection
        self._leases = leases
        self._heartbeat = heartbeat
        self._on_join = on_join
        self._on_outdated = on_outdated
        self._has_joined = False
        self._probe_at = 0.0
        self.is_outdated = False

    def try_to_join(self) -> None:
        """Join when the database lets us. Raises `ConfigError` if the first join is refused."""
        if self._state.draining:
            return
        fatal = ContractMismatch if self._has_joined else ConfigError
        try:
            self._connection.attempt("joining", self._join, fatal)
        except ContractMismatch:
            if not self._has_joined:
                raise
            self._connection.attempt("the contract check", self._check_contract)

    def lose(self, reason: str) -> None:
        """Stop what runs under leases that have expired. The next turn joins again.

        Other peers may not have reclaimed the tasks yet, for instance when the database's clock was
        set forward. So record finished tasks and release the others: no attempt counts.
        """
        peer_id = self._state.peer_id
        self._heartbeat.pause()
        self._leases.pool.kill_all()
        with contextlib.suppress(DatabaseUnreachable):
            self._connection.finish(_LAST_REPLY_SECONDS)  # it may bring tasks, or record some
        self._leases.abandon()
        with contextlib.suppress(DatabaseUnreachable):
            self._connection.attempt("releasing expired leases", self._release_expired)
        self._state.peer_id = None
        if peer_id is not None:
            events.peer_lost(peer_id=peer_id, reason=reason)

    def record_all(self) -> None:
        """Record every outcome before the peer leaves, on a new connection if need be."""
        with contextlib.suppress(DatabaseUnreachable):
            self._connection.finish()  # only its end shows whether the connection works
        if self._state.peer_id is not None and self._connection.reopen(_LAST_CONNECT_SECONDS):
            self._leases.record_all()

    def leave(self) -> None:
        """Remove the peer's row, which releases every lease that it still holds."""
        peer_id = self._state.peer_id
        if peer_id is not None:
            released = self._connection.do(lambda c: functions.leave(c, peer_id))
            unregister_process()
            events.peer_left(peer_id=peer_id, released=released)

    def probe(self) -> None:
        """Find out whether the database is reachable: a fenced peer has no other statement."""
        if time.monotonic() >= self._probe_at:
            self._probe_at = time.monotonic() + _PROBE_EVERY
            self._connection.attempt("the contract check", self._check_contract)

    def compare_contract(self, theirs: int) -> None:
        """End this peer if a migration has changed the contract: systemd starts the new release."""
        if theirs != CONTRACT_VERSION and not self.is_outdated:
            self.is_outdated = True
            self._on_outdated()
            events.contract_changed(ours=CONTRACT_VERSION, theirs=theirs)

    def _check_contract(self) -> None:
        self.compare_contract(self._connection.do(functions.contract_version))

    def _join(self) -> None:
        settings, kinds = self._settings, self._leases.pool.kinds
        joined_at, host, pid = boottime(), socket.gethostname(), os.getpid()
        policies = [
            KindPolicy(
                k.kind,
                k.max_attempts,
                k.timeout,
                k.backoff_base,
                k.backoff_cap,
                k.queue,
                k.priority,
            )
            for k in kinds.values()
        ]
        process = {**(register_process() or {}), "version": package_version()}
        peer_id = self._connection.do(
            lambda c: functions.join(
                c, host, pid, settings.queues, policies, settings.lease_timeout, process=process
            )
        )
        self._state.peer_id = peer_id
        events.set_peer_id(peer_id)
        if self._heartbeat.fenced:
            self._leases.stop_all()
        self._heartbeat.start(peer_id, joined_at)
        self._has_joined = True
        self._on_join(f"joined as {peer_id}")
        events.peer_joined(
            peer_id=peer_id, host=host, pid=pid, queues=settings.queues, kinds=sorted(kinds),
            lease_timeout=settings.lease_timeout.total_seconds(),
        )  # fmt: skip

    def _release_expired(self) -> None:
        self._leases.record_all()
        peer_id = self._state.peer_id
        if peer_id is not None:
            self._connection.do(lambda c: functions.leave(c, peer_id))
