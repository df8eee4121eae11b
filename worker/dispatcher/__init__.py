"""The dispatcher: due jobs go to the broker, and silent workers lose their leases."""
