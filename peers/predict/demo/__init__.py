"""A demo of a prediction that survives bad rows, a dying peer and a dying command."""
