"""What the ledger tells: of a job, its attempts and what they have said; and what operators look at, of all of it, at a
price that does not depend on how many jobs there are."""
