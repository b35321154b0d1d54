"""What a run is: its folder, manifests and tables, and what it reads besides a configuration."""
