"""Many runs of one config with other hyper-parameters: a W&B sweep YAML, run on this machine with Optuna or registered with W&B."""
