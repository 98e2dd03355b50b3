"""Commands under `harness vlfeedback`: preference data from instructions to pairs."""
