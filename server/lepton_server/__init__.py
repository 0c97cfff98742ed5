"""The operator's side of a federation."""
