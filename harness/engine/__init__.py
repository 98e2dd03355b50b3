"""The engine that answers: shares images and prompt prefixes over the questions of a run."""
