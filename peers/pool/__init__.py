"""The parent's side of the workers: start them, hand out tasks, see them die, replace them."""
