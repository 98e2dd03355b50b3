"""VLFeedback: instructions to answers, ratings and preference pairs."""
