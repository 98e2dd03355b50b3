"""The board as markdown, CSV, HTML page and plots."""
