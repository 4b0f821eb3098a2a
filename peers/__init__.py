"""Peers: a leaderless task scheduler that lives in Postgres."""
