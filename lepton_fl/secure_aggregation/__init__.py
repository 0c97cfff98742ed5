"""Secure aggregation: the operator learns sums over a cohort, `docs/secure-aggregation.md`.

The table has what `secure_aggregation=` takes.
"""

TABLE = {
    "off": "lepton_fl.secure_aggregation.settings:Off",
    "on": "lepton_fl.secure_aggregation.settings:On",
}
