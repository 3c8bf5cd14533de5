"""Both ends of each wire in one file: what one role writes and another reads is defined here, once."""
