"""What a delivery of a webhook is made of: how it is signed, where it may go, and how it is posted there."""
