"""One frozen view of everything committed, which all readers share."""
