"""The process of the user: from the command line to the submitted run, and its watch."""
