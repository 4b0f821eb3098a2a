"""A prediction from nothing: trained, poisoned, killed, resumed, and checked row by row."""
