"""What the site needs beside Sphinx: links to files of the repository, pages nobody has placed yet, the API from docstrings."""
