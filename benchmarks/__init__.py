"""Measure Peers beside other task queues that keep their tasks in Postgres; none of it is a test."""
