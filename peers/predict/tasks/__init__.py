"""The code that runs in the workers: chunks, single rows, and the assembly of the output."""
