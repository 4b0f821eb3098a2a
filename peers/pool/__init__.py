"""The peer's side of the workers: start them, assign tasks, notice exits, replace them."""
