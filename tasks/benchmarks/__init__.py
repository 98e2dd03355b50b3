"""One YAML file and one module for each benchmark."""
