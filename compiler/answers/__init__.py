"""What can be asked of a plan: why a unit is where it is, and what differs between two plans."""
