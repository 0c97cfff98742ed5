"""Local training: the steps an institution takes on its own records."""
