"""How we talk to the broker."""
