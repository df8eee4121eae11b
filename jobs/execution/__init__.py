"""A message becomes finished jobs: claims, leases, attempts, and how they end."""
