"""How good a judge is: its choices between pairs of answers, against those of people or of the scene graph."""
