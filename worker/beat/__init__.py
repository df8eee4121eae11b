"""Beat: what is done regularly, and when."""
