"""Federated learning for institutions that may not show anyone their records."""
