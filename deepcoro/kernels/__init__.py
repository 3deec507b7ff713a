"""The fast mathematics, each beside its slow oracle."""
