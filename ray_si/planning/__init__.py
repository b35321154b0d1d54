"""What a build would do and cost, before it starts."""
