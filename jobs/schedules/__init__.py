"""What is done regularly, and when: schedules in code and in the ledger."""
