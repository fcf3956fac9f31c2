"""What a machine has: devices with their budgets, and how fast they are."""
