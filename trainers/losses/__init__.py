"""Preference losses and the trainers that need more than a formula."""
