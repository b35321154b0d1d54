"""What writes text: one protocol, several engines, loaded when asked for."""
