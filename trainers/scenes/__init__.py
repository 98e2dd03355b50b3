"""How the embedded models are made: architecture, training corpus with its planted prior, and pretraining from
scratch."""
