"""What a peer counts, how it reports that to the database, and how Prometheus reads it."""
