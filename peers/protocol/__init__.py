"""The data that a peer and its workers exchange: messages, and the running marker."""
