"""The key of generated data: public, since there is nobody to protect."""

import hashlib


def demo_key() -> str:
    """The key that turns the invented ids into keyed ones."""
    return hashlib.sha256(b"deepcoro demo data: a public key for invented patients").hexdigest()
