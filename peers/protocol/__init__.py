"""What crosses between a peer and its workers: messages, and one page of shared memory."""
