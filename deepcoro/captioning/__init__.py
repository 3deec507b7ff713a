"""What a caption decoder is asked, the decoder, and how it writes."""
