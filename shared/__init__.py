"""What agent and coordinator must agree on."""
