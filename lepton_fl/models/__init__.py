"""Models, by the name that `model=` takes: one dataclass, one file, one YAML each."""

TABLE = {
    "cnn": "lepton_fl.models.cnn:Cnn",
    "logistic": "lepton_fl.models.logistic:Logistic",
    "mlp": "lepton_fl.models.mlp:Mlp",
    "tanh_cnn": "lepton_fl.models.tanh_cnn:TanhCnn",
}
