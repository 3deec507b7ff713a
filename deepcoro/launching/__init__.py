"""From the predecessor's flags to `accelerate launch`, watched: what `tools/runner.sh` and the SLURM script start on each machine."""
