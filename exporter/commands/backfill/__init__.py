"""The past before the first poll: read, played back, written."""
