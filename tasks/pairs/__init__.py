"""Benchmarks of judges: pairs of answers of which people prefer one."""
