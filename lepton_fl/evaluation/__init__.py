"""Evaluation: one histogram of the hold-out at each institution, every figure computed from their sum."""

TABLE = {
    "private": "lepton_fl.evaluation.settings:Private",
    "exact": "lepton_fl.evaluation.settings:Exact",
}
