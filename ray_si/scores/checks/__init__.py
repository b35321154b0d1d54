"""What a program can check of an answer."""
