"""Building, rating and checking preference data."""
