"""What the processes of one host tell each other: the directory, who lives, what is counted."""
