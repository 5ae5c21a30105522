"""The demo: one coordinator, three virtual workstations, and the operator who uses them."""
