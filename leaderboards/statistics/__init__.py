"""Resampling, paired tests, ranks, agreement of raters."""
