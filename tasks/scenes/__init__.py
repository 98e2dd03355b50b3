"""The embedded world: rendered scenes with exact ground truth, its tasks, its models and its judge."""
