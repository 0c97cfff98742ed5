"""Fair training, by the name that `fairness=` takes.

To register a method, add a line here and its settings' values in `conf/fairness/NAME.yaml`.
"""

TABLE = {
    "ditto": "lepton_fl.fairness.settings:Ditto",
    "global_rw": "lepton_fl.fairness.settings:GlobalReweighing",
    "group": "lepton_fl.fairness.settings:GroupWeights",
    "local_rw": "lepton_fl.fairness.settings:LocalReweighing",
    "none": "lepton_fl.fairness.settings:NoFairness",
    "thresholds": "lepton_fl.fairness.settings:Thresholds",
}
