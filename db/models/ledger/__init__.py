"""The tables of the ledger: jobs, what is told of them, what they wait for, and what bounds them."""
