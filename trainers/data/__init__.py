"""Preference data: rows, formats, pair rules, images, contamination."""
