"""What the ledger tells of a job: its attempts and what they have said."""
