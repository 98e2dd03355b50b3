"""POVID: hallucinations injected into correct answers."""
