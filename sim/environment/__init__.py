"""The simulator as a Gymnasium environment, for LeRobot's own commands."""
