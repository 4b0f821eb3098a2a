"""Connections to Postgres, the functions and tables there, and the schema itself."""
