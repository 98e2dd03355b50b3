"""Where numbers live: entries, the board that keeps them, verdicts, reports and the regression gate."""
