"""From a model and tasks, or from answer files, to entries of the leaderboard."""
