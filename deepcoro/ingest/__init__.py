"""From the files of a hospital to studies without identities: tables, films, keyed ids."""
