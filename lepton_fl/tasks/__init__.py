"""Tasks, by the schema their YAML starts from; a tabular task is one YAML and no code."""

TABLE = {
    "digits": "lepton_fl.tasks.digits:Digits",
    "mnist": "lepton_fl.tasks.mnist:Mnist",
    "tabular": "lepton_fl.tasks.tabular:Tabular",
}
