"""The exact search behind the `auto` strategy: atoms, packings, the ledger and what explains them.

Nothing here imports torch; ``highs`` is the only module that imports the solver and numpy.
"""
