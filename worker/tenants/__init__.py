"""Tenants are made, suspended and dropped here, by whoever owns the databases."""
