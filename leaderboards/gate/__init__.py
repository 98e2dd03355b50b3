"""The regression gate and its output for CI."""
