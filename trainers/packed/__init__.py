"""TRL's DPO trainer with each image and prompt read once for all answers."""
