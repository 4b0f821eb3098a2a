"""Check the house style of the SQL files."""
