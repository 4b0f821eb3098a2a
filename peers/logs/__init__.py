"""Where the log goes, and how it never blocks who writes to it."""
