"""An app without a handler."""
