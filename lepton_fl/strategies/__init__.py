"""Strategies, by the name that `strategy=` takes: Flower's own classes.

To register one, add a line here and its settings' values in `conf/strategy/NAME.yaml`.
"""

TABLE = {
    "afl": "lepton_fl.strategies.agnostic:AFL",
    "bulyan": "lepton_fl.strategies.robust:Bulyan",
    "fedadagrad": "lepton_fl.strategies.adaptive:FedAdagrad",
    "fedadam": "lepton_fl.strategies.adaptive:FedAdam",
    "fedavg": "lepton_fl.strategies.averaging:FedAvg",
    "fedavgm": "lepton_fl.strategies.averaging:FedAvgM",
    "fedmedian": "lepton_fl.strategies.robust:FedMedian",
    "fedprox": "lepton_fl.strategies.averaging:FedProx",
    "fedtrimmedavg": "lepton_fl.strategies.robust:FedTrimmedAvg",
    "fedyogi": "lepton_fl.strategies.adaptive:FedYogi",
    "krum": "lepton_fl.strategies.robust:Krum",
    "multikrum": "lepton_fl.strategies.robust:MultiKrum",
    "qfedavg": "lepton_fl.strategies.averaging:QFedAvg",
}
