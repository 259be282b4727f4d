"""Plain text: read as a stream, tokenised once, kept on the disk and ordered by address."""
