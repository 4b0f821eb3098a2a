"""Measure Peers beside other task queues that keep their tasks in Postgres."""
