"""Many nodes on one machine: the installed Flower apps under Flower's simulation engine, no SuperLink."""
