"""Run Peers in the public long-horizon harness for job queues, against a Postgres of this machine.

The harness is https://github.com/hardbyte/postgresql-job-queue-benchmarking. `make
bench-long-horizon` runs its five chaos cells, its four pressure cells and its throughput cell.
"""
