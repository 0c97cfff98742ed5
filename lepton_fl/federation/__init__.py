"""One federated run: the institution's app, the checks on what comes back, the rounds, the local grid."""
