"""How due jobs go to the broker: whose turn it is, what is under way, and what comes back."""
