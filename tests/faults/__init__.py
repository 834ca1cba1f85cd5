"""The short form of the fault suite, and what it found."""
