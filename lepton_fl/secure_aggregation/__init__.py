"""Secure aggregation: the operator learns the sum of the survivors' vectors, and of no institution more than that."""
