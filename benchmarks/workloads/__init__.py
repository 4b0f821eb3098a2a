"""The workloads, one in each module. Each has a function `measure`, which adds rows to the run."""
