"""Evaluation: integer counts at each institution, every figure computed from their sum."""
