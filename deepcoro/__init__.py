"""deepcoro: video-language models of coronary angiography and echo, from cine files to an honest report."""

__version__ = "0.1.0"
