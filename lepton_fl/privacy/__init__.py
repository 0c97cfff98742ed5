"""Differential privacy: units, sampling, noise, accounting."""
