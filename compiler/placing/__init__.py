"""What every way of placing shares: the frontier, first fit, rooms, grains and the ledger."""
