"""Environments and data sets: `make("hopper-medium") -> Task`."""
