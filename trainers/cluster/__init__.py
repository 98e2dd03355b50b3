"""Training on several processes and as Slurm jobs."""
