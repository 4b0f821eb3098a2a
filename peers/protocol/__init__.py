"""What crosses between a peer and its workers: messages, and the running marker."""
