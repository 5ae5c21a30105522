"""Makes the tiny base policy: data from the simulator, LeRobot's own SmolVLA, about twenty minutes on two
cores."""
