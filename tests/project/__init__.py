"""The project itself: its layers, its README, and that no password is shown anywhere."""
