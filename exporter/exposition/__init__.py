"""What `/metrics` answers, and when it is made."""
