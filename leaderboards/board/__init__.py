"""Entries, sample logs and the folder that keeps them; results in and out."""
